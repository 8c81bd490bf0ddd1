#include "tests/cuda_emulation/gpus.h"

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <utility>

namespace tandem::cuda_emulation {
namespace {

constexpr int kLaunchFailure = 719;

/// What a variable of the environment says; `otherwise` without it.
int64_t Environment(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody sets it
  return text == nullptr ? otherwise : std::strtoll(text, nullptr, 10);
}

/// The numbers of a variable, with commas between them; none without it.
std::vector<size_t> Numbers(const char* name) {
  std::vector<size_t> numbers;
  const char* at = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody sets it
  while (at != nullptr && *at != '\0') {
    char* end = nullptr;
    numbers.push_back(std::strtoull(at, &end, 10));
    at = *end == ',' ? end + 1 : nullptr;
  }
  return numbers;
}

struct State {
  State() {
    gpus.count = static_cast<int>(Environment("EMULATED_GPUS", gpus.count));
    gpus.bytes_of = Numbers("EMULATED_GPU_MEMORY");
    if (auto speeds = Numbers("EMULATED_GPU_SPEED"); !speeds.empty()) {
      gpus.bytes_per_second = std::move(speeds);
    }
    gpus.shared_bytes = static_cast<size_t>(
        Environment("EMULATED_GPU_SHARED_BYTES", static_cast<int64_t>(gpus.shared_bytes)));
    gpus.major = static_cast<int>(Environment("EMULATED_GPU_CAPABILITY", gpus.major));
    if (const auto drivers = Numbers("EMULATED_GPU_DRIVER"); !drivers.empty()) {
      const auto rank = static_cast<size_t>(Environment("OMPI_COMM_WORLD_RANK", 0));
      gpus.driver = static_cast<int>(drivers[std::min(rank, drivers.size() - 1)]);
    }
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
