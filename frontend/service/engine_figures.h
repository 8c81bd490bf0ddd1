#pragma once

#include <cstdint>
#include <memory>
#include <thread>

#include "core/base/mutex.h"
#include "frontend/service/mailbox.h"
#include "parallel/engine/engine.h"

namespace tandem::frontend {

/// A thread that asks the engine for its status, since an engine that hangs does not answer. What
/// it says goes to the mailbox. Thread safety: all functions from any thread.
class EngineFigures {
 public:
  /// `engine` must outlive it.
  EngineFigures(parallel::Engine& engine, std::shared_ptr<Mailbox> mailbox);
  /// Waits for an answer that is on its way.
  ~EngineFigures();
  EngineFigures(const EngineFigures&) = delete;
  EngineFigures& operator=(const EngineFigures&) = delete;

  /// The engine will be asked after this call. The number is that of the answer, or below it: one
  /// answer may serve several calls.
  uint64_t Ask();

 private:
  void Run();

  parallel::Engine& engine_;
  const std::shared_ptr<Mailbox> mailbox_;
  Mutex mutex_;
  CondVar changed_;
  uint64_t asked_ ABSL_GUARDED_BY(mutex_) = 0;     // the last call
  uint64_t answered_ ABSL_GUARDED_BY(mutex_) = 0;  // up to which call
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace tandem::frontend
