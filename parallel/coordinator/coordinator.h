#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <unordered_map>
#include <vector>

#include "core/base/mutex.h"
#include "parallel/control/agreement.h"
#include "parallel/control/control_channel.h"
#include "parallel/coordinator/open_requests.h"
#include "parallel/coordinator/pending_durable_answers.h"
#include "parallel/coordinator/rank_setup.h"
#include "parallel/coordinator/rate_meter.h"
#include "parallel/engine/engine.h"
#include "parallel/schedule/fetch_tracker.h"
#include "parallel/schedule/prompt_budget.h"
#include "parallel/schedule/scheduler.h"
#include "parallel/schedule/speculation.h"

namespace tandem::parallel {

struct CoordinatorOptions {
  int32_t max_waiting = 256;
  /// Send the next plan while a step runs. Worth it where plans travel; a step is wasted when a
  /// sequence ends with a stop token.
  bool plan_ahead = false;
  /// Keep steps short for those who decode while others read their prompts (PromptBudget).
  bool spare_streams = true;
  bool speculate = false;  // draft, where requests let us
  /// RecordOptions.
  std::chrono::milliseconds fetch_deadline{1000};
  std::chrono::milliseconds least_fetch_deadline{20};
  std::chrono::milliseconds flush_deadline{2000};
  /// When this rank's own step fails, how long to wait for the channel to name the rank that died,
  /// which says more.
  std::chrono::milliseconds blame_wait{1000};
  /// Called by the step loop's thread before its first step.
  std::function<void()> on_step_thread = nullptr;
  /// Ends the world when the step loop hangs in a collective at destruction (Communicator::Abort).
  std::function<void(const absl::Status&)> abort_world;
  Watchdog* watchdog = nullptr;  // RankOptions
};

/// The engine of rank 0: a thread that schedules, runs and commits steps as long as there is work,
/// and sleeps otherwise.
///
/// Once it is constructed, only its step thread may call the communicator. When a rank dies or a
/// step fails, all open requests end with that status, and every later Submit returns it; all that
/// is left to do then is to end the process.
/// Destruction ends open requests with kUnavailable, stops the followers, and joins the thread.
/// Thread safety: as Engine.
class Coordinator final : public Engine {
 public:
  Coordinator(RankSetup setup, std::unique_ptr<ControlLeader> channel, CoordinatorOptions options);
  ~Coordinator() override;

  absl::StatusOr<RequestId> Submit(EngineRequest request, EngineSink sink) override;
  void Cancel(RequestId id) override;
  absl::StatusOr<EngineStatus> Status() override;
  absl::Status Health() override;

  /// The most tokens of prompt and answer together: the model's context, or less if the KV pool
  /// cannot hold that.
  int32_t context() const { return limits_.context; }

 private:
  struct Inbox {
    std::deque<std::pair<RequestId, EngineRequest>> requests;
    std::vector<RequestId> cancelled;
    std::vector<RecordReport> reports;
    std::vector<std::pair<FetchId, SavedTokens>> probed;
    bool empty() const {
      return requests.empty() && cancelled.empty() && reports.empty() && probed.empty();
    }
  };
  struct InFlight {
    ScheduledStep step;
    Digest hash{};
  };

  void Loop();
  bool WaitForWork();
  absl::Status Step();
  /// Begins current_, and the next step where it need not wait for what current_ gives; finishes
  /// current_. ahead: the next step, if it was scheduled.
  absl::StatusOr<StepResult> RunCurrent(std::optional<InFlight>& ahead, bool& ahead_begun);
  void TakeInbox();
  absl::StatusOr<std::optional<InFlight>> Schedule();
  absl::Status Commit(const InFlight& flight, const StepResult& result);
  absl::Status DeliverScores(const RequestEvent& event);
  void Finished(const RequestEvent& event);
  void PublishStatus();

  // coordinator_records.cpp
  void ListenToRecords();
  void TakeRecordNews(const Inbox& inbox);
  void AskForRecords();
  void TellHeld(const PendingDurableAnswers::Held& held);
  void CountRecords(const RecordReport& report);
  std::optional<std::chrono::steady_clock::time_point> NextRecordDeadline() const;
  int32_t SecondsUntilRoom() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Die(const absl::Status& why);
  absl::Status BlameForStepFailure(const absl::Status& own);
  void FinishPlanAhead();
  void StopFollowers();

  const SchedulerOptions limits_;
  const CoordinatorOptions options_;

  // Used by the step thread alone.
  Scheduler scheduler_;
  PromptBudget prompt_budget_;
  Speculation speculation_;
  FetchTracker fetches_;
  PendingDurableAnswers held_;
  std::vector<RecordCounts> record_counts_;  // [ranks] the last that each has told
  RankSetup setup_;
  std::optional<InFlight> current_;
  bool current_begun_ = false;  // the runner has begun it

  std::unique_ptr<ControlLeader> channel_;
  Agreement agreement_;
  std::vector<std::atomic<uint64_t>> reduce_nanoseconds_;  // [ranks] the last that each has told
  OpenRequests open_;

  mutable Mutex mutex_;
  CondVar changed_;  // inbox, stopping or health
  Inbox inbox_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool loop_ended_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status health_ ABSL_GUARDED_BY(mutex_);
  RequestId next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  EngineStatus status_ ABSL_GUARDED_BY(mutex_);
  RateMeter generated_rate_ ABSL_GUARDED_BY(mutex_);
  RateMeter finished_rate_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace tandem::parallel
