#include "parallel/engine/prompt_readings.h"

#include <chrono>
#include <utility>

namespace tandem::parallel {
namespace {

constexpr std::chrono::milliseconds kAskInterval{10};

}  // namespace

void PromptReadings::Submit(EngineRequest request) {
  {
    const MutexLock lock(state_->mutex);
    ++state_->open;
  }
  const auto ended = [state = state_](const Finish& /*finish*/) {
    const MutexLock lock(state->mutex);
    --state->open;
    state->changed.NotifyAll();
  };
  request.max_tokens = 0;
  EngineSink sink;
  sink.on_finish = ended;
  const absl::StatusOr<RequestId> id = engine_.Submit(std::move(request), std::move(sink));
  if (id.ok()) {
    ids_.push_back(*id);
  } else {
    ended({});
  }
}

bool PromptReadings::Wait(const std::function<bool()>& keep_on) {
  while (keep_on()) {
    const MutexLock lock(state_->mutex);
    if (state_->open == 0) return true;
    state_->changed.WaitFor(state_->mutex, kAskInterval);
  }
  for (const RequestId id : ids_) engine_.Cancel(id);
  return false;
}

}  // namespace tandem::parallel
