#include "parallel/rank/worker.h"

#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "parallel/plan/step_plan_codec.h"

namespace tandem::parallel {
namespace {

absl::Status CheckOrder(const StepPlan& plan, uint64_t epoch, uint64_t step) {
  if (plan.epoch != epoch) {
    return Internal("a plan of epoch {} came, expected {}", plan.epoch, epoch);
  }
  if (plan.step != step) return Internal("plan {} came, expected {}", plan.step, step);
  return absl::OkStatus();
}

/// The plans that a follower has got and not finished: one, or a second one that it has begun while
/// its device computes the first.
class Follower {
 public:
  Follower(ControlFollower& channel, RankRunner& runner, uint64_t epoch)
      : channel_(channel), runner_(runner), epoch_(epoch) {}

  /// Follows one plan to its end. True if it says stop.
  absl::StatusOr<bool> Step() {
    if (!current_) {
      TANDEM_ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, channel_.Receive());
      TANDEM_ASSIGN_OR_RETURN(current_, Begin(bytes));
    }
    if (current_->plan.stop) return true;
    std::optional<Flight> next;
    if (runner_.AllowsNext()) {
      TANDEM_ASSIGN_OR_RETURN(next, BeginNext());
    }
    TANDEM_ASSIGN_OR_RETURN(const StepResult result,
                            runner_.Finish(current_->plan, current_->hash));
    TANDEM_RETURN_IF_ERROR(
        channel_.Acknowledge(current_->plan.step, result.digest, result.reduce_nanoseconds));
    current_ = std::move(next);
    return false;
  }

 private:
  struct Flight {
    StepPlan plan;
    Digest hash{};
  };

  absl::StatusOr<Flight> Begin(std::span<const std::byte> bytes) {
    TANDEM_ASSIGN_OR_RETURN(StepPlan plan, DecodeStepPlan(bytes));
    TANDEM_RETURN_IF_ERROR(CheckOrder(plan, epoch_, ++step_));
    if (!plan.stop) TANDEM_RETURN_IF_ERROR(runner_.Begin(plan));
    return Flight{.plan = std::move(plan), .hash = StepPlanHash(bytes)};
  }

  /// The next plan, if it comes before the device has done the current one.
  absl::StatusOr<std::optional<Flight>> BeginNext() {
    absl::StatusOr<std::optional<std::vector<std::byte>>> bytes = std::nullopt;
    TANDEM_RETURN_IF_ERROR(runner_.Await([&] {
      bytes = channel_.TryReceive();
      return !bytes.ok() || bytes->has_value();
    }));
    TANDEM_RETURN_IF_ERROR(bytes.status());
    if (!bytes->has_value()) return std::nullopt;
    return Begin(**bytes);
  }

  ControlFollower& channel_;
  RankRunner& runner_;
  const uint64_t epoch_;
  uint64_t step_ = 0;              // of the plan that came last
  std::optional<Flight> current_;  // begun
};

}  // namespace

absl::Status FollowPlans(ControlFollower& channel, RankRunner& runner, uint64_t epoch) {
  Follower follower(channel, runner, epoch);
  for (;;) {
    const absl::StatusOr<bool> stop = follower.Step();
    if (!stop.ok()) {
      channel.Fail(stop.status());
      return stop.status();
    }
    if (*stop) return absl::OkStatus();
  }
}

}  // namespace tandem::parallel
