#include "launcher/supervision/step_watch.h"

#include <algorithm>

namespace tandem::launcher {
namespace {

constexpr auto kMostOfOneLook = std::chrono::seconds(2);

}  // namespace

bool StepWatch::Stuck(const parallel::EngineStatus& status, Clock::time_point now) {
  if (status.running == 0) {
    last_.reset();
    return false;
  }
  if (!last_ || status.steps != last_->steps) {
    last_ = {.steps = status.steps, .at = now};
    return false;
  }
  last_->still += std::min<Clock::duration>(now - last_->at, kMostOfOneLook);
  last_->at = now;
  return last_->still >= patience_;
}

}  // namespace tandem::launcher
