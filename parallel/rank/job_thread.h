#pragma once

#include <deque>
#include <functional>
#include <thread>

#include "core/base/mutex.h"

namespace tandem::parallel {

/// Does jobs one after the other on a thread of its own. Thread safety: Push from any thread; Stop
/// by one, when nobody pushes any more.
class JobThread {
 public:
  JobThread() : thread_([this] { Run(); }) {}
  ~JobThread() { Stop(); }
  JobThread(const JobThread&) = delete;
  JobThread& operator=(const JobThread&) = delete;

  void Push(std::function<void()> job);
  /// Does what was pushed, and ends the thread.
  void Stop();

 private:
  void Run();

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> jobs_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace tandem::parallel
