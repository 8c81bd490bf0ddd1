#include "tests/cuda_emulation/gpus.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>

namespace tandem::cuda_emulation {
namespace {

constexpr int kLaunchFailure = 719;

/// What a variable of the environment says; `otherwise` without it.
int64_t Environment(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody sets it
  return text == nullptr ? otherwise : std::strtoll(text, nullptr, 10);
}

/// GPU:N of a variable; without it, no GPU.
std::pair<int, int64_t> OfGpu(const char* name) {
  const char* text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody sets it
  int gpu = -1;
  long long number = 0;
  if (text == nullptr || std::sscanf(text, "%d:%lld", &gpu, &number) != 2) return {-1, 0};
  return {gpu, number};
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
    gpus.without_peers =
        static_cast<int>(Environment("EMULATED_GPU_WITHOUT_PEERS", gpus.without_peers));
    gpus.opens_handles = Environment("EMULATED_GPU_HANDLES", 1) != 0;
    std::tie(gpus.loses, gpus.loses_from) = OfGpu("EMULATED_GPU_LOSES");
    std::tie(dies, dies_at) = OfGpu("EMULATED_GPU_DIES");
  }
  std::mutex mutex;
  Gpus gpus;
  int64_t calls = 0;
  int64_t failing = 0;  // the first call that fails; 0: none
  int error = kLaunchFailure;
  std::map<int, int64_t> stores;  // of each GPU
  int dies = -1;
  int64_t dies_at = 0;
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
  TheState().stores.clear();
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

bool NextStoreArrives() {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  const int64_t store = ++state.stores[current_gpu];
  if (current_gpu == state.dies && store == state.dies_at) std::raise(SIGKILL);
  return current_gpu != state.gpus.loses || store < state.gpus.loses_from;
}

int NextCall() {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  ++state.calls;
  return state.failing != 0 && state.calls >= state.failing ? state.error : 0;
}

}  // namespace tandem::cuda_emulation
