#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <thread>
#include <utility>

#include "core/base/mutex.h"

namespace tandem::frontend {

/// A thread for what takes long with texts: reading large requests, rendering, tokenizing. In the
/// order of arrival. Thread safety: all functions from any thread.
class TextWorker {
 public:
  /// `bytes`: of the texts that may wait.
  explicit TextWorker(int64_t bytes);
  /// Drops what waits.
  ~TextWorker();
  TextWorker(const TextWorker&) = delete;
  TextWorker& operator=(const TextWorker&) = delete;

  /// False: too much waits. `work` must not throw.
  bool Do(int64_t bytes, std::function<void()> work);

 private:
  void Run();

  const int64_t limit_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<std::pair<int64_t, std::function<void()>>> waiting_ ABSL_GUARDED_BY(mutex_);
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace tandem::frontend
