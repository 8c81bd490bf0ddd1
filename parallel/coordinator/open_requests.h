#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>

#include "parallel/engine/engine.h"

namespace tandem::parallel {

/// The requests that have not finished, with their sinks and clocks.
///
/// A lock of its own serializes the calls of sinks. Add does not take it, so a sink may take locks
/// that callers of Add hold. on_finish comes exactly once and last, even when the engine dies on
/// one thread while another delivers tokens. Thread safety: all methods.
class OpenRequests {
 public:
  void Add(RequestId id, EngineSink sink, int32_t prompt_tokens);
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
  void FinishAll(FinishReason reason, const absl::Status& status);

 private:
  using Clock = std::chrono::steady_clock;
  struct Request {
    EngineSink sink;
    Usage usage;
    Clock::time_point submitted;
    Clock::time_point admitted{};
    Clock::time_point first_token{};
  };
  std::shared_ptr<Request> Find(RequestId id) const;
  static void CallFinish(Request& request, FinishReason reason, const absl::Status& status,
                         bool saved);

  std::mutex delivery_;       // held while a sink is called; taken before mutex_
  mutable std::mutex mutex_;  // guards requests_
  std::unordered_map<RequestId, std::shared_ptr<Request>> requests_;
};

}  // namespace tandem::parallel
