#include <algorithm>
#include <chrono>
#include <thread>

#include "core/device/device.h"
#include "core/formats/model_file.h"
#include "core/model/device_status.h"
#include "parallel/communicators/agree_on_status.h"
#include "parallel/communicators/thread_communicator.h"
#include "parallel/links/linked_communicator.h"
#include "tests/bench/gpu_bench/measure.h"

namespace tandem::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kMostTimes = 1000;  // repetitions

/// What a GPU may be joined to others by.
std::vector<absl::StatusOr<std::unique_ptr<core::DeviceLinker>>> Linkers() {
  std::vector<absl::StatusOr<std::unique_ptr<core::DeviceLinker>>> linkers;
  linkers.push_back(core::OpenLinker(core::DeviceKind::kCuda));
  linkers.push_back(core::OpenPeerLinker(core::DeviceKind::kCuda));
  return linkers;
}

/// One rank of the measurement: a thread with a GPU.
class Rank {
 public:
  Rank(parallel::Communicator& world, const core::Gpu& gpu, const Effort& effort)
      : world_(world), gpu_(gpu), effort_(effort), bytes_(testing::TinyModel({})) {}

  absl::Status Open() {
    TANDEM_ASSIGN_OR_RETURN(file_, core::ModelFile::OpenBuffer(bytes_, "tiny"));
    core::DeviceOptions options;
    options.kind = core::DeviceKind::kCuda;
    options.gpu = gpu_;
    TANDEM_ASSIGN_OR_RETURN(
        device_, core::MakeDevice(options, file_->config(), core::WholeModel(file_->config())));
    return absl::OkStatus();
  }

  /// By a link, both types.
  absl::Status MeasureLink(absl::StatusOr<std::unique_ptr<core::DeviceLinker>> linker, bool shared,
                           std::span<const int64_t> sizes, std::vector<ReducePoint>& points) {
    const std::string name = linker.ok() && *linker ? std::string((*linker)->name()) : "link";
    TANDEM_ASSIGN_OR_RETURN(
        const parallel::LinkedWorld linked,
        parallel::LinkDevices(
            world_, {.device = *device_, .linker = std::move(linker), .shares_device = shared}));
    if (linked.world == nullptr) {
      points.push_back({.link = name, .type = "", .skipped = linked.problem});
      return absl::OkStatus();
    }
    core::DeviceLink& link = *linked.world->device_link();
    for (const bool floats : {false, true}) {
      for (const int64_t bytes : sizes) {
        TANDEM_ASSIGN_OR_RETURN(const auto values, memory().AllocateZeroed(bytes));
        const auto reduce = [&](int times) -> absl::Status {
          for (int i = 0; i < times; ++i) {
            absl::Status put = floats ? link.AllReduceSum(SpanOf<float>(values.get(), bytes))
                                      : link.AllReduceSum(SpanOf<int64_t>(values.get(), bytes));
            TANDEM_RETURN_IF_ERROR(std::move(put));
          }
          return Wait(values.get(), *linked.world);
        };
        TANDEM_ASSIGN_OR_RETURN(const double seconds, Time(reduce));
        points.push_back({.link = name,
                          .type = floats ? "float32" : "int64",
                          .bytes = bytes,
                          .seconds = seconds,
                          .skipped = {}});
      }
    }
    return absl::OkStatus();
  }

  /// Through the hosts, as a step does it: it adds integers in both modes.
  absl::Status MeasureHost(std::span<const int64_t> sizes, std::vector<ReducePoint>& points) {
    for (const int64_t bytes : sizes) {
      core::PartialSums sums(memory(), bytes / static_cast<int64_t>(sizeof(int64_t)) - 1);
      sums.SetTokens(1);
      TANDEM_ASSIGN_OR_RETURN(const auto zeros, memory().AllocateZeroed(bytes));
      TANDEM_RETURN_IF_ERROR(memory().CopyWithin(reinterpret_cast<std::byte*>(sums.sums()),
                                                 zeros.get(), static_cast<size_t>(bytes)));
      const auto reduce = [&](int times) -> absl::Status {
        for (int i = 0; i < times; ++i) {
          TANDEM_RETURN_IF_ERROR(device_->AllReduce(sums, world_, {}));
        }
        return Wait(reinterpret_cast<std::byte*>(sums.sums()), world_);
      };
      TANDEM_ASSIGN_OR_RETURN(const double seconds, Time(reduce));
      points.push_back(
          {.link = "host", .type = "int64", .bytes = bytes, .seconds = seconds, .skipped = {}});
    }
    points.push_back(
        {.link = "host", .type = "float32", .skipped = "hosts add integers in both modes"});
    return absl::OkStatus();
  }

 private:
  core::CudaMemory& memory() { return static_cast<core::CudaMemory&>(device_->memory()); }

  template <typename T>
  static std::span<T> SpanOf(std::byte* values, int64_t bytes) {
    return {reinterpret_cast<T*>(values), static_cast<size_t>(bytes) / sizeof(T)};
  }

  /// Until all that is in the stream is done.
  absl::Status Wait(std::byte* values, parallel::Communicator& world) {
    std::byte word[8];
    const core::CopyRun run{.device = values, .host = word, .bytes = sizeof(word)};
    return memory().CopyToHost({&run, 1}, [&](absl::FunctionRef<bool()> done) {
      return world.WaitForDevice(done, [] { return core::DevicePlace(); });
    });
  }

  /// Seconds of one of many, by the clock of rank 0, which says how many there are.
  absl::StatusOr<double> Time(const std::function<absl::Status(int times)>& reduce) {
    int times = effort_.least;
    TANDEM_RETURN_IF_ERROR(reduce(times));
    double seconds = 0;
    for (const bool last : {false, true}) {
      TANDEM_RETURN_IF_ERROR(world_.Barrier());
      const auto begin = Clock::now();
      TANDEM_RETURN_IF_ERROR(reduce(times));
      seconds = std::chrono::duration<double>(Clock::now() - begin).count() / times;
      if (last) break;
      times = static_cast<int>(std::clamp(effort_.seconds / seconds, double(times), kMostTimes));
      TANDEM_RETURN_IF_ERROR(world_.Broadcast(std::as_writable_bytes(std::span(&times, 1))));
    }
    return seconds;
  }

  parallel::Communicator& world_;
  const core::Gpu gpu_;
  const Effort effort_;
  const std::vector<std::byte> bytes_;
  std::unique_ptr<core::ModelFile> file_;
  std::unique_ptr<core::Operations> device_;
};

}  // namespace

absl::StatusOr<std::vector<ReducePoint>> ReduceRates(const std::vector<core::Gpu>& gpus, int ranks,
                                                     std::span<const int64_t> sizes,
                                                     const Effort& effort) {
  const bool shared = ranks > static_cast<int>(gpus.size());
  std::vector<std::vector<ReducePoint>> points(static_cast<size_t>(ranks));
  std::vector<absl::Status> statuses(static_cast<size_t>(ranks));
  const auto run = [&](parallel::Communicator& world) {
    const auto r = static_cast<size_t>(world.rank());
    return core::WithDeviceFailures([&]() -> absl::Status {
      Rank rank(world, gpus[r % gpus.size()], effort);
      TANDEM_RETURN_IF_ERROR(parallel::AgreeOnStatus(world, rank.Open()));
      for (auto& linker : Linkers()) {
        TANDEM_RETURN_IF_ERROR(rank.MeasureLink(std::move(linker), shared, sizes, points[r]));
      }
      return rank.MeasureHost(sizes, points[r]);
    });
  };
  auto worlds = parallel::MakeThreadWorld(ranks);
  std::vector<std::thread> threads;
  for (size_t r = 0; r < worlds.size(); ++r) {
    threads.emplace_back([&run, &status = statuses[r], world = std::move(worlds[r])]() mutable {
      status = run(*world);
      world.reset();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& status : statuses) TANDEM_RETURN_IF_ERROR(status);
  for (ReducePoint& point : points[0]) {
    if (point.seconds <= 0) continue;
    point.bus_bytes_per_second =
        2.0 * (ranks - 1) / ranks * static_cast<double>(point.bytes) / point.seconds;
  }
  return points[0];
}

}  // namespace tandem::bench
