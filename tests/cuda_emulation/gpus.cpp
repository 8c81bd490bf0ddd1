#include "tests/cuda_emulation/gpus.h"

#include <atomic>
#include <cstdlib>
#include <mutex>

namespace tandem::cuda_emulation {
namespace {

constexpr int kLaunchFailure = 719;

/// What a variable of the environment says; `otherwise` without it.
int64_t Environment(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody sets it
  return text == nullptr ? otherwise : std::strtoll(text, nullptr, 10);
}

struct State {
  State() {
    gpus.count = static_cast<int>(Environment("EMULATED_GPUS", gpus.count));
    gpus.bytes =
        static_cast<size_t>(Environment("EMULATED_GPU_MEMORY", static_cast<int64_t>(gpus.bytes)));
    gpus.shared_bytes = static_cast<size_t>(
        Environment("EMULATED_GPU_SHARED_BYTES", static_cast<int64_t>(gpus.shared_bytes)));
    gpus.major = static_cast<int>(Environment("EMULATED_GPU_CAPABILITY", gpus.major));
    gpus.driver = static_cast<int>(Environment("EMULATED_GPU_DRIVER", gpus.driver));
    failing = Environment("EMULATED_GPU_FAILURE", 0);
  }
  std::mutex mutex;
  Gpus gpus;
  int64_t calls = 0;
  int64_t failing = 0;  // the first call that fails; 0: none
  int error = kLaunchFailure;
};

State& TheState() {
  static auto* const state = new State;  // also for what ends after main
  return *state;
}

thread_local int current_gpu = 0;

}  // namespace

void SetGpus(const Gpus& gpus) {
  const std::lock_guard lock(TheState().mutex);
  TheState().gpus = gpus;
}

const Gpus& TheGpus() { return TheState().gpus; }

int CurrentGpu() { return current_gpu; }
void SetCurrentGpu(int gpu) { current_gpu = gpu; }

int64_t Calls() {
  const std::lock_guard lock(TheState().mutex);
  return TheState().calls;
}

void FailFrom(int64_t n, int error) {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  state.failing = n == 0 ? 0 : state.calls + n;
  state.error = error;
}

int NextCall() {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  ++state.calls;
  return state.failing != 0 && state.calls >= state.failing ? state.error : 0;
}

}  // namespace tandem::cuda_emulation
