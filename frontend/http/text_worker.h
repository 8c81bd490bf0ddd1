#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <thread>
#include <unordered_map>

#include "core/base/mutex.h"

namespace tandem::frontend {

/// A thread for what takes long with texts: reading large requests, rendering, tokenizing. Clients
/// share it by bytes, so that a short text waits for at most one long one. Thread safety: all
/// functions from any thread.
class TextWorker {
 public:
  /// `bytes`: of the texts that may wait.
  explicit TextWorker(int64_t bytes);
  /// Drops what waits.
  ~TextWorker();
  TextWorker(const TextWorker&) = delete;
  TextWorker& operator=(const TextWorker&) = delete;

  /// False: too much waits. `work` must not throw; what a client gives is done in its order.
  bool Do(uint64_t client, int64_t bytes, std::function<void()> work);

 private:
  struct Waiting {
    uint64_t client = 0;
    int64_t bytes = 0;
    std::function<void()> work;
  };
  struct Client {
    int64_t ends_at = 0;  // its last text
    int64_t waiting = 0;  // texts
  };

  void Run();
  Waiting TakeFirst() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int64_t limit_;
  Mutex mutex_;
  CondVar changed_;
  /// By when they would end if all clients were served at once, in bytes (start-time fair queueing,
  /// Goyal et al. 1996).
  std::multimap<int64_t, Waiting> waiting_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<uint64_t, Client> clients_ ABSL_GUARDED_BY(mutex_);  // of them
  int64_t now_ ABSL_GUARDED_BY(mutex_) = 0;                               // in bytes, too
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace tandem::frontend
