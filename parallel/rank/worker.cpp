#include "parallel/rank/worker.h"

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

/// True if the plan says stop.
absl::StatusOr<bool> FollowOne(ControlFollower& channel, RankRunner& runner, uint64_t epoch,
                               uint64_t step, std::span<const std::byte> bytes) {
  TANDEM_ASSIGN_OR_RETURN(const StepPlan plan, DecodeStepPlan(bytes));
  TANDEM_RETURN_IF_ERROR(CheckOrder(plan, epoch, step));
  if (plan.stop) return true;
  TANDEM_ASSIGN_OR_RETURN(const StepResult result, runner.Execute(plan, StepPlanHash(bytes)));
  TANDEM_RETURN_IF_ERROR(channel.Acknowledge(plan.step, result.digest));
  return false;
}

}  // namespace

absl::Status FollowPlans(ControlFollower& channel, RankRunner& runner, uint64_t epoch) {
  for (uint64_t step = 1;; ++step) {
    TANDEM_ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, channel.Receive());
    const absl::StatusOr<bool> stop = FollowOne(channel, runner, epoch, step, bytes);
    if (!stop.ok()) {
      channel.Fail(stop.status());
      return stop.status();
    }
    if (*stop) return absl::OkStatus();
  }
}

}  // namespace tandem::parallel
