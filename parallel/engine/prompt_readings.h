#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "core/base/mutex.h"
#include "parallel/engine/engine.h"

namespace tandem::parallel {

/// Prompts that an engine reads without an answer, so that it knows their KV when a request comes
/// for it. Thread safety: none.
class PromptReadings {
 public:
  /// `engine` must outlive the readings that are not over.
  explicit PromptReadings(Engine& engine) : engine_(engine) {}

  /// One that the engine refuses counts as over.
  void Submit(EngineRequest request);
  /// Until all are over. False: those that are not were cancelled, since `keep_on`, which is asked
  /// every 10 ms, gave false.
  bool Wait(const std::function<bool()>& keep_on);

 private:
  struct State {
    Mutex mutex;
    CondVar changed;
    size_t open ABSL_GUARDED_BY(mutex) = 0;
  };

  Engine& engine_;
  const std::shared_ptr<State> state_ = std::make_shared<State>();
  std::vector<RequestId> ids_;
};

}  // namespace tandem::parallel
