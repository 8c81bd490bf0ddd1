#include "core/cuda/nccl/cuda_nccl_link.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "core/base/mutex.h"
#include "core/cuda/cuda_memory.h"
#include "core/cuda/nccl/nccl.h"
#include "core/model/device_status.h"
#include "core/model/operations.h"

namespace tandem::core {
namespace {

constexpr std::chrono::microseconds kPause{100};  // between questions whether a call is done
constexpr std::chrono::minutes kCallPatience{2};  // until a reduction is in the stream
constexpr std::chrono::seconds kEndPatience{2};   // of the end, until the stream is empty
/// Of the memory that all GPUs of a host map, where NCCL has it: 64 tokens of 16384 floats.
constexpr size_t kWindowBytes = size_t{4} << 20;

/// "NCCL 2.28.9"
std::string NcclName(int version) {
  return fmt::format("NCCL {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

template <typename Function>
bool Find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

/// One communicator. It does not block: a call that takes longer says so, and is asked for.
class NcclLink final : public DeviceLink {
 public:
  NcclLink(const nccl::Library& library, std::string name, CudaMemory& memory)
      : nccl_(library), name_(std::move(name)), memory_(memory) {}

  ~NcclLink() override {
    const MutexLock lock(mutex_);
    if (comm_ != nullptr) {
      if (window_ != nullptr && !broken_ && memory_.WaitForKernels(kEndPatience).ok()) {
        static_cast<void>(nccl_.CommWindowDeregister(comm_, window_));
      }
      // Destroying waits for what was put into the stream.
      static_cast<void>(broken_ ? nccl_.CommAbort(comm_) : nccl_.CommDestroy(comm_));
    }
    if (float_sums_ != nullptr) static_cast<void>(nccl_.MemFree(float_sums_));
  }
  NcclLink(const NcclLink&) = delete;
  NcclLink& operator=(const NcclLink&) = delete;

  /// Afterwards all ranks have a window, or none has.
  absl::Status Join(const DeviceLinkId& id, const DeviceLinkPlace& place,
                    DeviceLinkExchange exchange) {
    absl::Status joined = WithDeviceFailures([&] { return Meet(id, place); });
    if (!place.floats || nccl_.CommWindowRegister == nullptr) return joined;
    // A rank that has no memory must not be waited for.
    if (joined.ok() && nccl_.MemAlloc(&float_sums_, kWindowBytes) != nccl::kSuccess) {
      float_sums_ = nullptr;
    }
    const std::byte there{float_sums_ != nullptr};
    TANDEM_ASSIGN_OR_RETURN(const std::vector<std::vector<std::byte>> all, exchange({&there, 1}));
    TANDEM_RETURN_IF_ERROR(joined);
    const bool everywhere = std::all_of(all.begin(), all.end(), [](const auto& of_rank) {
      return of_rank == std::vector{std::byte{1}};
    });
    return everywhere ? RegisterWindow() : absl::OkStatus();
  }

  std::string_view name() const override { return name_; }

  std::span<std::byte> FloatSums(size_t bytes) override {
    if (window_ == nullptr || bytes > kWindowBytes) return {};
    return {static_cast<std::byte*>(float_sums_), bytes};
  }

  absl::Status AllReduceSum(std::span<int64_t> values) override {
    return Reduce(values.data(), values.size(), nccl::kInt64);
  }
  absl::Status AllReduceSum(std::span<float> values) override {
    return Reduce(values.data(), values.size(), nccl::kFloat32);
  }

  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    if (mine.empty()) return absl::OkStatus();
    return Call("ncclAllGather", [&](nccl::Comm comm) {
      return nccl_.AllGather(mine.data(), all.data(), mine.size(), nccl::kUint8, comm,
                             memory_.stream());
    });
  }

  absl::Status Health() override {
    const MutexLock lock(mutex_);
    if (comm_ == nullptr || broken_) return GivenUp();
    int state = nccl::kSuccess;
    const int result = nccl_.CommGetAsyncError(comm_, &state);
    if (result != nccl::kSuccess) return Failed("ncclCommGetAsyncError", result);
    if (state != nccl::kSuccess && state != nccl::kInProgress) return Failed("a reduction", state);
    return absl::OkStatus();
  }

  void Abort() override {
    aborted_ = true;  // whoever waits with the lock held lets go
    const MutexLock lock(mutex_);
    if (comm_ == nullptr) return;
    broken_ = true;
    static_cast<void>(nccl_.CommAbort(comm_));
    comm_ = nullptr;
  }

  absl::Status Finish(std::chrono::milliseconds patience) override {
    absl::Status status = memory_.WaitForKernels(patience, [&] { return Health(); });
    if (!status.ok()) Abort();
    return status;
  }

 private:
  absl::Status Meet(const DeviceLinkId& id, const DeviceLinkPlace& place) {
    UseGpu(memory_.gpu());
    nccl::UniqueId unique = {};
    std::memcpy(&unique, id.data(), sizeof(unique));
    nccl::Config config;
    const MutexLock lock(mutex_);
    const int result = nccl_.CommInitRankConfig(&comm_, place.ranks, unique, place.rank, &config);
    absl::Status joined = Settle(result, "ncclCommInitRankConfig", place.patience);
    if (!absl::IsDeadlineExceeded(joined)) return joined;
    return absl::DeadlineExceededError(
        fmt::format("{}; not all ranks have come: do the network cards that NCCL takes reach each "
                    "other (NCCL_SOCKET_IFNAME names another, NCCL_DEBUG=INFO tells which)?",
                    Message(joined)));
  }

  /// NCCL may have none between these GPUs: it says so by a window that is null.
  absl::Status RegisterWindow() {
    const MutexLock lock(mutex_);
    const int result = nccl_.CommWindowRegister(comm_, float_sums_, kWindowBytes, &window_,
                                                nccl::kSymmetricWindow);
    return Settle(result, "ncclCommWindowRegister", kCallPatience);
  }

  absl::Status Reduce(void* values, size_t count, int type) {
    if (count == 0) return absl::OkStatus();
    return Call("ncclAllReduce", [&](nccl::Comm comm) {
      return nccl_.AllReduce(values, values, count, type, nccl::kSum, comm, memory_.stream());
    });
  }

  template <typename Function>
  absl::Status Call(const char* name, const Function& function) {
    const MutexLock lock(mutex_);
    if (comm_ == nullptr || broken_) return GivenUp();
    return Settle(function(comm_), name, kCallPatience);
  }

  /// Waits until a call is done, which began with `result`.
  absl::Status Settle(int result, const char* call, std::chrono::milliseconds patience)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto end = std::chrono::steady_clock::now() + patience;
    while (result == nccl::kInProgress) {
      if (aborted_) {
        broken_ = true;
        return GivenUp();
      }
      if (std::chrono::steady_clock::now() > end) {
        broken_ = true;
        return absl::DeadlineExceededError(
            fmt::format("{} on {}: {} did not end within {} s", name_, GpuText(), call,
                        std::chrono::duration_cast<std::chrono::seconds>(patience).count()));
      }
      std::this_thread::sleep_for(kPause);
      if (const int asked = nccl_.CommGetAsyncError(comm_, &result); asked != nccl::kSuccess) {
        result = asked;
      }
    }
    return result == nccl::kSuccess ? absl::OkStatus() : Failed(call, result);
  }

  absl::Status Failed(const char* call, int result) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    broken_ = true;
    const char* last = nccl_.GetLastError(comm_);
    const std::string more = last == nullptr || *last == '\0' ? "" : fmt::format(" ({})", last);
    return Unavailable("{} on {}: {} failed: {}{}", name_, GpuText(), call,
                       nccl_.GetErrorString(result), more);
  }

  absl::Status GivenUp() const { return Unavailable("{} on {} was given up", name_, GpuText()); }

  std::string GpuText() const {
    const Gpu& gpu = memory_.gpu();
    return fmt::format("GPU {}{}", gpu.index, gpu.name.empty() ? "" : " (" + gpu.name + ")");
  }

  const nccl::Library nccl_;
  const std::string name_;
  CudaMemory& memory_;
  std::atomic<bool> aborted_ = false;
  Mutex mutex_;
  void* float_sums_ = nullptr;     // [kWindowBytes] on the device, or null
  nccl::Window window_ = nullptr;  // of them; set once, before anything is reduced
  nccl::Comm comm_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
};

class NcclLinker final : public DeviceLinker {
 public:
  NcclLinker(const nccl::Library& library, int version)
      : nccl_(library), version_(version), name_(NcclName(version)) {}

  std::string_view name() const override { return name_; }
  bool joins_shared_devices() const override { return version_ >= nccl::kSharedGpuVersion; }
  bool joins_hosts() const override { return true; }
  int most_ranks() const override { return INT_MAX; }

  absl::StatusOr<DeviceLinkId> NewId() const override {
    nccl::UniqueId unique = {};
    if (const int result = nccl_.GetUniqueId(&unique); result != nccl::kSuccess) {
      return Unavailable("{}: ncclGetUniqueId failed: {} ({})", name_, nccl_.GetErrorString(result),
                         nccl_.GetLastError(nullptr));
    }
    DeviceLinkId id;
    static_assert(sizeof(id) == sizeof(unique));
    std::memcpy(id.data(), &unique, sizeof(unique));
    return id;
  }

  absl::StatusOr<std::unique_ptr<DeviceLink>> Join(Operations& device, const DeviceLinkId& id,
                                                   const DeviceLinkPlace& place,
                                                   DeviceLinkExchange exchange) const override {
    return WithDeviceFailures([&]() -> absl::StatusOr<std::unique_ptr<DeviceLink>> {
      // NOLINTNEXTLINE(concurrency-mt-unsafe): nobody else reads it
      if (place.shares_device) setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1", 0);
      auto link =
          std::make_unique<NcclLink>(nccl_, name_, static_cast<CudaMemory&>(device.memory()));
      TANDEM_RETURN_IF_ERROR(link->Join(id, place, exchange));
      return link;
    });
  }

 private:
  const nccl::Library nccl_;
  const int version_;
  const std::string name_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceLinker>> OpenNccl() {
  void* const library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return Unavailable(
        "NCCL is not here ({}); install it (package libnccl2, or nvidia-nccl-cu13 of PyPI), or "
        "name "
        "its folder in LD_LIBRARY_PATH",
        dlerror());
  }
  nccl::Library found = {};
  int version = 0;
  if (!Find(library, "ncclGetVersion", found.GetVersion) ||
      found.GetVersion(&version) != nccl::kSuccess) {
    return Unavailable("libnccl.so.2 does not say its version; install another NCCL");
  }
  if (version < nccl::kOldestVersion) {
    return Unavailable("{} is too old; install {} or later",
                       version < nccl::VersionCode(1, 0, 0) ? "NCCL before 2.9" : NcclName(version),
                       NcclName(nccl::kOldestVersion));
  }
  if (!Find(library, "ncclGetUniqueId", found.GetUniqueId) ||
      !Find(library, "ncclCommInitRankConfig", found.CommInitRankConfig) ||
      !Find(library, "ncclCommGetAsyncError", found.CommGetAsyncError) ||
      !Find(library, "ncclCommAbort", found.CommAbort) ||
      !Find(library, "ncclCommDestroy", found.CommDestroy) ||
      !Find(library, "ncclAllReduce", found.AllReduce) ||
      !Find(library, "ncclAllGather", found.AllGather) ||
      !Find(library, "ncclGetErrorString", found.GetErrorString) ||
      !Find(library, "ncclGetLastError", found.GetLastError)) {
    return Unavailable("{} lacks a function ({})", NcclName(version), dlerror());
  }
  if (version >= nccl::kWindowVersion &&
      !(Find(library, "ncclMemAlloc", found.MemAlloc) &&
        Find(library, "ncclMemFree", found.MemFree) &&
        Find(library, "ncclCommWindowRegister", found.CommWindowRegister) &&
        Find(library, "ncclCommWindowDeregister", found.CommWindowDeregister))) {
    found.CommWindowRegister = nullptr;
  }
  return std::make_unique<NcclLinker>(found, version);
}

}  // namespace tandem::core
