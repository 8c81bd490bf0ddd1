#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "parallel/engine/engine.h"

namespace tandem::testing {

/// An engine without a model: a thread that gives each request the tokens a script has for its
/// prompt, one each step and request, in turn. Tests may hold it still between steps, and kill it.
/// It remembers what it has read and written, and tells how much of a new prompt is the beginning
/// of that, as an engine with a cache of pages would. Its log-probabilities are made of the tokens.
/// Thread safety: all methods from any thread.
class FakeEngine final : public parallel::Engine {
 public:
  /// The answer to a prompt. It ends by itself where it ends with one of the request's stop tokens
  /// (reason kStop); an answer used up otherwise starts again, until max_tokens.
  using Script = std::function<std::vector<int32_t>(const std::vector<int32_t>& prompt)>;

  explicit FakeEngine(Script script, std::chrono::microseconds step = {});
  ~FakeEngine() override;

  absl::StatusOr<parallel::RequestId> Submit(parallel::EngineRequest request,
                                             parallel::EngineSink sink) override;
  void Cancel(parallel::RequestId id) override;
  absl::StatusOr<parallel::EngineStatus> Status() override;
  absl::Status Health() override;
  void Scale(int ranks, const ScaleDone& done) override;

  /// While held, no step runs; cancels and deaths are still seen.
  void Hold(bool held);
  /// Ends every request with this status, and refuses new ones with it.
  void Die(absl::Status status);
  /// What Scale gives; without, it is as Engine has it.
  void set_scale(const parallel::EngineScale& scale);
  /// Tells every request in progress.
  void Tell(const parallel::EngineNotice& notice);
  /// Requests beyond this many in progress are refused.
  void set_capacity(size_t capacity);

  int submitted() const;
  int running() const;
  std::vector<parallel::EngineRequest> requests() const;  // all submitted so far

  /// The log-probabilities that it gives a token, with `top` best ones: token t has -t/100, and so
  /// do the best, which are 0, 1, 2, ...
  static parallel::TokenLogprobs LogprobsOf(int32_t token, int32_t top);

 private:
  struct Running {
    parallel::EngineRequest request;
    parallel::EngineSink sink;
    std::vector<int32_t> script = {};
    std::vector<int32_t> read = {};  // prompt and answer so far
    int32_t reused = 0;
    int32_t made = 0;
    bool admitted = false;
    bool prompt_told = false;  // its log-probabilities
    bool cancelled = false;
  };
  void Loop();
  void Step(std::unique_lock<std::mutex>& lock);
  void End(parallel::RequestId id, parallel::FinishReason reason, const absl::Status& status,
           std::unique_lock<std::mutex>& lock);

  const Script script_;
  const std::chrono::microseconds step_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // All below are guarded by mutex_.
  std::map<parallel::RequestId, Running> running_;
  std::vector<parallel::EngineRequest> requests_;
  std::vector<std::pair<uint64_t, std::vector<int32_t>>> known_;  // by tenant
  parallel::RequestId next_id_ = 1;
  size_t capacity_ = 1000;
  std::optional<parallel::EngineScale> scale_;
  bool held_ = false;
  bool quit_ = false;
  absl::Status health_;
  uint64_t steps_ = 0;
  uint64_t generated_ = 0;
  std::thread thread_;
};

}  // namespace tandem::testing
