#include "core/base/thread_pool.h"

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "core/base/isa.h"

namespace tandem::core {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kCacheLine = 64;

/// Waits until `done(value of word)`, spinning for `spin` first; returns that value.
template <typename Done>
uint32_t WaitUntil(const std::atomic<uint32_t>& word, std::chrono::microseconds spin, Done done) {
  uint32_t value = word.load(std::memory_order_acquire);
  if (done(value)) return value;
  if (spin.count() > 0) {
    const Clock::time_point end = Clock::now() + spin;
    do {
      for (int i = 0; i < 16; ++i) {
        _mm_pause();
        value = word.load(std::memory_order_acquire);
        if (done(value)) return value;
      }
    } while (Clock::now() < end);
  }
  while (!done(value)) {
    word.wait(value, std::memory_order_acquire);
    value = word.load(std::memory_order_acquire);
  }
  return value;
}

}  // namespace

/// A line of memory takes a tenth of a microsecond or two from core to core, and a decoded token
/// has hundreds of jobs, so what matters is how many lines a job moves. The caller writes one, with
/// all that the job is; each worker writes its own, and takes tasks from it.
///
/// Jobs are numbered by an epoch, always even. A worker says on its line that it is in a job (epoch
/// + 1) and then looks whether the job is closed. In the end the caller waits for workers that are
/// inside. If one has not come yet, the caller closes the job and looks again. Both are
/// sequentially consistent, so one of them sees the other: a worker that sleeps (or that the system
/// has put aside) before entering is never waited for.
///
/// Each worker has a share of the tasks, [begin, end) by its number, of which whoever has nothing
/// left takes some too. `taken` counts them together with the epoch, so that a count left from
/// another job is known for what it is, and nobody has to reset it.
struct ThreadPool::State {
  struct alignas(kCacheLine) Worker {
    std::atomic<uint64_t> taken{0};  // epoch << 32 | tasks taken from this share
    std::atomic<uint32_t> place{0};  // epoch + kInside in a job, epoch after it
    std::thread thread;              // not of worker 0, the caller
  };

  static constexpr uint32_t kInside = 1;

  explicit State(int threads) : workers(static_cast<size_t>(threads)) {}

  std::vector<Worker> workers;
  std::chrono::microseconds spin{0};

  // The job; all but `stop` written by the caller only, while nobody is inside.
  alignas(kCacheLine) std::atomic<uint32_t> epoch{0};  // workers wait on it
  std::atomic<bool> stop{false};
  uint32_t tasks = 0;
  const absl::FunctionRef<void(int64_t, int)>* body = nullptr;
  int64_t first_task = 0;

  alignas(kCacheLine) std::atomic<uint32_t> closed{0};  // the last epoch that had to be closed
  std::atomic<bool> caller_sleeps{false};

  uint32_t ShareBegin(size_t worker) const {
    return static_cast<uint32_t>(uint64_t{tasks} * worker / workers.size());
  }

  /// Takes a task from a share; false if none is left.
  bool Take(size_t share, uint32_t job, uint32_t& task) {
    const uint32_t begin = ShareBegin(share);
    const uint32_t size = ShareBegin(share + 1) - begin;
    std::atomic<uint64_t>& taken = workers[share].taken;
    uint64_t seen = taken.load(std::memory_order_relaxed);
    for (;;) {
      const uint32_t count = seen >> 32 == job ? static_cast<uint32_t>(seen) : 0;
      if (count >= size) return false;
      if (taken.compare_exchange_weak(seen, uint64_t{job} << 32 | (count + 1),
                                      std::memory_order_relaxed)) {
        task = begin + count;
        return true;
      }
    }
  }

  void RunTasks(int worker, uint32_t job) {
    const size_t own = static_cast<size_t>(worker);
    for (size_t i = 0; i < workers.size(); ++i) {
      const size_t share = (own + i) % workers.size();
      for (uint32_t task; Take(share, job, task);) (*body)(first_task + task, worker);
    }
  }

  void Work(int worker) {
    SetFloatEnvironment();
    Worker& own = workers[static_cast<size_t>(worker)];
    uint32_t seen = 0;
    for (;;) {
      seen = WaitUntil(epoch, spin, [seen](uint32_t value) { return value != seen; });
      if (stop.load(std::memory_order_relaxed)) return;
      own.place.store(seen + kInside, std::memory_order_seq_cst);
      if (closed.load(std::memory_order_seq_cst) != seen &&
          epoch.load(std::memory_order_acquire) == seen) {
        RunTasks(worker, seen);
      }
      own.place.store(seen, std::memory_order_seq_cst);
      if (caller_sleeps.load(std::memory_order_seq_cst)) own.place.notify_all();
    }
  }

  /// Those inside finish the task they have.
  void EndJob(uint32_t job) {
    bool is_closed = false;
    for (size_t w = 1; w < workers.size(); ++w) {
      const std::atomic<uint32_t>& place = workers[w].place;
      uint32_t seen = place.load(std::memory_order_acquire);
      if (seen == job) continue;
      if (seen != job + kInside) {
        if (!is_closed) closed.store(job, std::memory_order_seq_cst);
        is_closed = true;
        seen = place.load(std::memory_order_seq_cst);
        if (seen != job + kInside) continue;
      }
      const Clock::time_point end = Clock::now() + spin;
      const auto is_inside = [&] { return place.load(std::memory_order_acquire) == job + kInside; };
      while (is_inside() && Clock::now() < end) _mm_pause();
      if (!is_inside()) continue;
      caller_sleeps.store(true, std::memory_order_seq_cst);
      while (place.load(std::memory_order_seq_cst) == job + kInside) place.wait(job + kInside);
      caller_sleeps.store(false, std::memory_order_relaxed);
    }
  }

  void Run(uint32_t count, int64_t first, absl::FunctionRef<void(int64_t, int)> function) {
    const uint32_t job = epoch.load(std::memory_order_relaxed) + 2;
    tasks = count;
    first_task = first;
    body = &function;
    epoch.store(job, std::memory_order_seq_cst);
    epoch.notify_all();
    RunTasks(0, job);
    EndJob(job);
  }
};

ThreadPool::ThreadPool(int threads, int spin_microseconds, const std::function<void(int)>& on_start)
    : state_(std::make_unique<State>(threads)) {
  state_->spin = std::chrono::microseconds(spin_microseconds);
  SetFloatEnvironment();
  for (int worker = 1; worker < threads; ++worker) {
    state_->workers[static_cast<size_t>(worker)].thread =
        std::thread([state = state_.get(), worker, on_start] {
          if (on_start) on_start(worker);
          state->Work(worker);
        });
  }
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true, std::memory_order_relaxed);
  state_->epoch.fetch_add(2, std::memory_order_seq_cst);
  state_->epoch.notify_all();
  for (State::Worker& worker : state_->workers) {
    if (worker.thread.joinable()) worker.thread.join();
  }
}

int ThreadPool::threads() const { return static_cast<int>(state_->workers.size()); }

void ThreadPool::ParallelFor(int64_t tasks, absl::FunctionRef<void(int64_t, int)> body) {
  if (tasks <= 1 || threads() == 1) {
    for (int64_t task = 0; task < tasks; ++task) body(task, 0);
    return;
  }
  constexpr int64_t kMostTasks = int64_t{1} << 31;
  for (int64_t first = 0; first < tasks; first += kMostTasks) {
    state_->Run(static_cast<uint32_t>(std::min(tasks - first, kMostTasks)), first, body);
  }
}

}  // namespace tandem::core
