#pragma once

#include <chrono>
#include <memory>
#include <span>
#include <unordered_map>

#include "core/base/mutex.h"
#include "parallel/engine/engine.h"

namespace tandem::parallel {

/// The requests that have not finished, with their sinks and clocks.
///
/// A lock of its own serializes the calls of sinks. Add does not take it, so a sink may take locks
/// that callers of Add hold. on_finish comes exactly once and last, even when the engine dies on
/// one thread while another delivers tokens. Thread safety: all methods.
class OpenRequests {
 public:
  /// usage: of the prompt, and of an answer that another engine has begun.
  void Add(RequestId id, EngineSink sink, const Usage& usage);
  size_t size() const;

  /// The request has left the queue; only the first time says what it reused.
  void Admitted(RequestId id, const ReusedFrom& reused, ReuseLimit limit);
  /// It lost its pages and is in the queue again.
  void Preempted(RequestId id);
  /// So many of its tokens were computed.
  void Computed(RequestId id, int32_t tokens);
  /// So many of its tokens were guessed ahead, and so many of those were right.
  void Drafted(RequestId id, int32_t drafted, int32_t accepted);
  void Logits(RequestId id, int64_t position, std::span<const float> logits);
  void Logprobs(RequestId id, int64_t position, std::span<const TokenLogprobs> logprobs);
  void Token(RequestId id, int32_t token);
  void Finish(RequestId id, FinishReason reason, const absl::Status& status, bool saved = false);
  /// The engine has died of this.
  void FailAll(const absl::Status& engine_died);

 private:
  using Clock = std::chrono::steady_clock;
  struct Request {
    EngineSink sink;
    Usage usage ABSL_GUARDED_BY(&OpenRequests::delivery_);
    const Clock::time_point submitted = Clock::now();
    Clock::time_point admitted ABSL_GUARDED_BY(&OpenRequests::delivery_){};
    Clock::time_point first_token ABSL_GUARDED_BY(&OpenRequests::delivery_){};
  };
  std::shared_ptr<Request> Find(RequestId id) const;
  void CallFinish(Request& request, parallel::Finish finish)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(delivery_);

  Mutex delivery_ ABSL_ACQUIRED_BEFORE(mutex_);  // held while a sink is called
  mutable Mutex mutex_;
  std::unordered_map<RequestId, std::shared_ptr<Request>> requests_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tandem::parallel
