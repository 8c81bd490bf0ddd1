#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/functional/function_ref.h"

namespace tandem::core {

/// Threads of one rank. The calling thread is one of them (worker 0); with one thread nothing is
/// started.
///
/// Workers wait by spinning briefly and then sleeping, so an idle engine uses no processor. A
/// worker that has not woken up yet is not waited for. All of them, and the thread that makes the
/// pool, get the float environment of numerics.md, rule 6.
/// Thread safety: one thread at a time may call ParallelFor, and never from within a body.
class ThreadPool {
 public:
  /// threads >= 1. `spin_microseconds`: how long a worker spins before it sleeps (0 when ranks
  /// outnumber cores). `on_start`: called first by each thread that the pool starts, with its
  /// worker number (from 1), e.g. to bind it to a processor.
  explicit ThreadPool(int threads, int spin_microseconds = 30,
                      const std::function<void(int worker)>& on_start = nullptr);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;

  /// Calls body(task, worker) once for every task in [0, tasks), tasks handed out by an atomic
  /// counter, and returns when all are done. Results must not depend on which worker ran what.
  void ParallelFor(int64_t tasks, absl::FunctionRef<void(int64_t task, int worker)> body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tandem::core
