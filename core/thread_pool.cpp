#include "core/thread_pool.h"

#include <immintrin.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "core/isa.h"

namespace tandem::core {
namespace {

// Bits of State::gate.
constexpr uint32_t kOpen = uint32_t{1} << 31;

using Clock = std::chrono::steady_clock;

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

/// A job is open while its tasks are handed out. A worker enters by adding one to the gate; if that
/// shows the gate open, it may touch the job until it takes its one away. The caller closes the
/// gate when no task is left, waits for those inside, and only then returns: a worker that sleeps
/// (or that the system has put aside) before entering is never waited for.
struct ThreadPool::State {
  std::vector<std::thread> workers;
  std::chrono::microseconds spin{0};
  std::atomic<bool> stop{false};
  alignas(64) std::atomic<uint32_t> generation{0};  // jobs opened so far; workers wait on it
  alignas(64) std::atomic<uint32_t> gate{0};        // kOpen + number of workers inside
  alignas(64) std::atomic<int64_t> next_task{0};
  // The job; written while the gate is closed and nobody is inside.
  int64_t tasks = 0;
  const absl::FunctionRef<void(int64_t, int)>* body = nullptr;

  void RunTasks(int worker) {
    for (;;) {
      const int64_t task = next_task.fetch_add(1, std::memory_order_relaxed);
      if (task >= tasks) return;
      (*body)(task, worker);
    }
  }

  void Work(int worker) {
    SetFloatEnvironment();
    uint32_t seen = 0;
    for (;;) {
      seen = WaitUntil(generation, spin, [seen](uint32_t value) { return value != seen; });
      if (stop.load(std::memory_order_relaxed)) return;
      if ((gate.fetch_add(1, std::memory_order_acquire) & kOpen) != 0) RunTasks(worker);
      const uint32_t before = gate.fetch_sub(1, std::memory_order_release);
      if (before == 1) gate.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int threads, int spin_microseconds) : state_(std::make_unique<State>()) {
  state_->spin = std::chrono::microseconds(spin_microseconds);
  SetFloatEnvironment();
  for (int worker = 1; worker < threads; ++worker) {
    state_->workers.emplace_back([state = state_.get(), worker] { state->Work(worker); });
  }
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true, std::memory_order_relaxed);
  state_->generation.fetch_add(1, std::memory_order_release);
  state_->generation.notify_all();
  for (std::thread& worker : state_->workers) worker.join();
}

int ThreadPool::threads() const { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::ParallelFor(int64_t tasks, absl::FunctionRef<void(int64_t, int)> body) {
  State& state = *state_;
  if (tasks <= 1 || state.workers.empty()) {
    for (int64_t task = 0; task < tasks; ++task) body(task, 0);
    return;
  }
  state.tasks = tasks;
  state.body = &body;
  state.next_task.store(0, std::memory_order_relaxed);
  state.gate.fetch_add(kOpen, std::memory_order_release);
  state.generation.fetch_add(1, std::memory_order_release);
  state.generation.notify_all();
  state.RunTasks(0);
  state.gate.fetch_sub(kOpen, std::memory_order_acq_rel);
  // Those inside finish the task they have.
  WaitUntil(state.gate, state.spin, [](uint32_t value) { return value == 0; });
}

}  // namespace tandem::core
