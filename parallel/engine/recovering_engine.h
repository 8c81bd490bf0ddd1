#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/base/mutex.h"
#include "parallel/engine/engine.h"

namespace tandem::parallel {

/// An engine whose requests outlive the engines that compute them.
///
/// One engine, a life, follows another (Begin, Lose). Requests that are open when a life is lost
/// wait for the next one, and go on behind the tokens that their sinks have:
/// EngineRequest::answered makes these the tokens of an engine that never died. A sink gets nothing
/// twice, and hears once a loss (EngineSink::on_notice). A request ends with kUnavailable where
/// life after life dies while it is computed, without giving it a token, since it may be what they
/// die of.
///
/// Thread safety: as Engine. WarmUp, Begin, Lose and GiveUp are called by one thread.
class RecoveringEngine final : public Engine {
 public:
  struct Options {
    size_t most_open = 320;      // requests, while there is no life
    int most_futile_lives = 10;  // that a request may see
    /// Engine::Scale; empty: it is as Engine has it.
    std::function<void(int ranks, const ScaleDone& done)> scale = nullptr;
    size_t told_restarts = 16;  // that Status lists
  };

  explicit RecoveringEngine(Options options) : options_(std::move(options)) {}
  /// Open requests end with kUnavailable.
  ~RecoveringEngine() override;

  absl::StatusOr<RequestId> Submit(EngineRequest request, EngineSink sink) override;
  void Cancel(RequestId id) override;
  /// Of the life that runs, or the last one; counts go on from life to life, but for what a life
  /// counted since the last call of this or of LifeStatus before it was lost or another began.
  absl::StatusOr<EngineStatus> Status() override;
  absl::Status Health() override;
  void Scale(int ranks, const ScaleDone& done) override;

  /// Of the life that runs, with its own counts. kUnavailable where there is none.
  absl::StatusOr<EngineStatus> LifeStatus() { return StatusOf(Life()); }
  /// Has an engine that is to begin read what open requests have so far, while the life that runs
  /// goes on with them: then they pause for less when it begins. Nothing else depends on it.
  /// Returns when it has caught up with them, or `keep_on`, which is asked often, gives false.
  void WarmUp(Engine& next, const std::function<bool()>& keep_on);
  /// How many tokens an open request may come to, prompt and answer together, where no context ends
  /// it before: the most of all; 0 where none is open.
  int64_t LongestOpen();
  /// A life begins, and takes all requests in the order in which they came: those that wait, and
  /// those of a life before that was not lost, where they end.
  void Begin(const std::shared_ptr<Engine>& life, uint64_t epoch);
  /// Whether a request got a token of the life with this epoch, or of a later one.
  bool GaveTokens(uint64_t epoch) const { return last_giver_.load() >= epoch; }
  /// The life is lost for this reason: nothing that it does from now on counts.
  void Lose(const absl::Status& why);
  /// The reason that Lose gave is known better.
  void Explain(const absl::Status& why);
  /// There is no next life: open requests end with this.
  void GiveUp(const absl::Status& why);

 private:
  using Clock = std::chrono::steady_clock;
  struct Request;
  using RequestPtr = std::shared_ptr<Request>;

  std::shared_ptr<Engine> Life();
  absl::StatusOr<EngineStatus> StatusOf(const std::shared_ptr<Engine>& life);
  /// What the last life counted is of those before from now on.
  void KeepCounts() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status SubmitTo(const RequestPtr& request, std::shared_ptr<Engine> life, uint64_t epoch);
  EngineSink SinkOf(const RequestPtr& request, uint64_t epoch);
  void Forget(RequestId id);
  void Finish(Request& request, parallel::Finish finish);
  std::vector<RequestPtr> Open();
  bool ReadOpen(Engine& next, const std::function<bool()>& keep_on);
  void EndAll(const absl::Status& why);

  const Options options_;
  std::atomic<uint64_t> last_giver_ = 0;     // epoch of the life that gave the last token
  std::atomic<uint64_t> last_admitter_ = 0;  // and of the one that began the last request
  uint64_t losses_ = 0;                      // of the thread that calls Lose
  Mutex mutex_;
  std::shared_ptr<Engine> life_ ABSL_GUARDED_BY(mutex_);  // null: there is none now
  uint64_t epoch_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status dead_ ABSL_GUARDED_BY(mutex_);
  absl::Status lost_ ABSL_GUARDED_BY(mutex_);
  Clock::time_point lost_at_ ABSL_GUARDED_BY(mutex_);
  std::map<RequestId, RequestPtr> requests_ ABSL_GUARDED_BY(mutex_);
  RequestId next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  RecoveryStatus recovery_ ABSL_GUARDED_BY(mutex_) = {.supervised = true};
  EngineStatus last_ ABSL_GUARDED_BY(mutex_);    // of the life that runs, or ran last
  EngineStatus before_ ABSL_GUARDED_BY(mutex_);  // the counts of all lives before
};

}  // namespace tandem::parallel
