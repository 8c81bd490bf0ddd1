#include "parallel/links/link_times.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "core/model/device_status.h"
#include "parallel/communicators/agree_on_status.h"

namespace tandem::parallel {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kPatience{10};  // until all ranks have done one thing
constexpr int kWarmUps = 3;
constexpr int kRounds = 3;
constexpr int kTimedReductions = 5;  // of a round

/// Enough values for two pieces of any link's, and a few.
constexpr size_t kCheckedValues = (size_t{2} << 20) / sizeof(int64_t) + 5;

/// Memory of the device with these values in it.
template <typename T>
class OnDevice {
 public:
  OnDevice(core::DeviceMemory& memory, std::vector<T> values)
      : memory_(memory),
        data_(memory.Allocate(static_cast<int64_t>(values.size() * sizeof(T)))),
        values_(std::move(values)) {
    const core::CopyRun run = Run();
    core::ThrowDeviceFailure(memory_.CopyFromHost({&run, 1}));
  }
  std::span<T> all() const { return {reinterpret_cast<T*>(data_.get()), values_.size()}; }
  /// After the link has finished.
  const std::vector<T>& Read() {
    const core::CopyRun run = Run();
    core::ThrowDeviceFailure(memory_.CopyToHost({&run, 1}));
    return values_;
  }

 private:
  core::CopyRun Run() {
    return {data_.get(), reinterpret_cast<std::byte*>(values_.data()), values_.size() * sizeof(T)};
  }

  core::DeviceMemory& memory_;
  std::shared_ptr<std::byte> data_;
  std::vector<T> values_;
};

/// What rank r gives is (r + 1) times this, so that all together give a known multiple of it.
int64_t Given(size_t i) { return static_cast<int64_t>(i * 2654435761 % 1000003) - 500000; }

absl::Status CheckSums(const Communicator& world, core::Operations& device, core::DeviceLink& link,
                       size_t count) {
  std::vector<int64_t> mine(count);
  for (size_t i = 0; i < count; ++i) mine[i] = (world.rank() + 1) * Given(i);
  OnDevice<int64_t> sums(device.memory(), std::move(mine));
  TANDEM_RETURN_IF_ERROR(link.AllReduceSum(sums.all()));
  TANDEM_RETURN_IF_ERROR(link.Finish(kPatience));
  const int64_t times = int64_t{world.size()} * (world.size() + 1) / 2;
  const std::vector<int64_t>& found = sums.Read();
  for (size_t i = 0; i < count; ++i) {
    if (found[i] == times * Given(i)) continue;
    return Unavailable("{} adds wrongly: {} values, of which number {} became {}, not {}",
                       link.name(), count, i, found[i], times * Given(i));
  }
  return absl::OkStatus();
}

absl::Status CheckGather(const Communicator& world, core::Operations& device,
                         core::DeviceLink& link) {
  constexpr size_t kEach = 1000;
  std::vector<int64_t> all(kEach * static_cast<size_t>(world.size()), -1);
  const size_t mine = kEach * static_cast<size_t>(world.rank());
  for (size_t i = 0; i < kEach; ++i) all[mine + i] = Given(mine + i);
  OnDevice<int64_t> gathered(device.memory(), std::move(all));
  TANDEM_RETURN_IF_ERROR(link.AllGather(std::as_bytes(gathered.all().subspan(mine, kEach)),
                                        std::as_writable_bytes(gathered.all())));
  TANDEM_RETURN_IF_ERROR(link.Finish(kPatience));
  const std::vector<int64_t>& found = gathered.Read();
  for (size_t i = 0; i < found.size(); ++i) {
    if (found[i] == Given(i)) continue;
    return Unavailable("{} gathers wrongly: value {} is {}, not {}", link.name(), i, found[i],
                       Given(i));
  }
  return absl::OkStatus();
}

/// Runs body() on all ranks, which give times that are added up over all of them.
template <typename Body>
absl::StatusOr<LinkTimes> AgreeOnTimes(Communicator& world, const Body& body) {
  std::array<int64_t, kTimedBytes.size()> times = {};
  const absl::Status mine = core::WithDeviceFailures([&] { return body(times); });
  TANDEM_RETURN_IF_ERROR(AgreeOnStatus(world, mine));
  TANDEM_RETURN_IF_ERROR(world.AllReduceSum(times, {}));
  LinkTimes mean;
  std::transform(times.begin(), times.end(), mean.begin(),
                 [&](int64_t sum) { return std::chrono::nanoseconds(sum / world.size()); });
  return mean;
}

/// The least mean of some rounds, after some reductions that do not count. reduce(n): so many.
template <typename Reduce>
absl::StatusOr<int64_t> TimeOf(const Reduce& reduce) {
  TANDEM_RETURN_IF_ERROR(reduce(kWarmUps));
  auto least = Clock::duration::max();
  for (int round = 0; round < kRounds; ++round) {
    const auto begin = Clock::now();
    TANDEM_RETURN_IF_ERROR(reduce(kTimedReductions));
    least = std::min(least, Clock::now() - begin);
  }
  return std::chrono::nanoseconds(least).count() / kTimedReductions;
}

}  // namespace

absl::Status CheckLink(Communicator& world, core::Operations& device, core::DeviceLink& link) {
  const absl::Status mine = core::WithDeviceFailures([&]() -> absl::Status {
    for (const size_t count : {size_t{1}, size_t{1000}, kCheckedValues}) {
      TANDEM_RETURN_IF_ERROR(CheckSums(world, device, link, count));
    }
    return CheckGather(world, device, link);
  });
  if (!mine.ok()) link.Abort();
  return AgreeOnStatus(world, mine);
}

absl::StatusOr<LinkTimes> TimeLink(Communicator& world, core::Operations& device,
                                   core::DeviceLink& link) {
  return AgreeOnTimes(world, [&](auto& times) -> absl::Status {
    OnDevice<int64_t> sums(device.memory(),
                           std::vector<int64_t>(kTimedBytes.back() / sizeof(int64_t)));
    for (size_t i = 0; i < kTimedBytes.size(); ++i) {
      const auto some = sums.all().first(kTimedBytes[i] / sizeof(int64_t));
      TANDEM_ASSIGN_OR_RETURN(times[i], TimeOf([&](int reductions) -> absl::Status {
                                for (int n = 0; n < reductions; ++n) {
                                  TANDEM_RETURN_IF_ERROR(link.AllReduceSum(some));
                                }
                                return link.Finish(kPatience);
                              }));
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<LinkTimes> TimeThroughHosts(Communicator& world, core::Operations& device) {
  return AgreeOnTimes(world, [&](auto& times) -> absl::Status {
    std::vector<int64_t> values(kTimedBytes.back() / sizeof(int64_t));
    OnDevice<int64_t> sums(device.memory(), values);
    for (size_t i = 0; i < kTimedBytes.size(); ++i) {
      const auto some = std::span(values).first(kTimedBytes[i] / sizeof(int64_t));
      const core::CopyRun run{reinterpret_cast<std::byte*>(sums.all().data()),
                              reinterpret_cast<std::byte*>(some.data()), some.size_bytes()};
      TANDEM_ASSIGN_OR_RETURN(times[i], TimeOf([&](int reductions) -> absl::Status {
                                for (int n = 0; n < reductions; ++n) {
                                  TANDEM_RETURN_IF_ERROR(device.memory().CopyToHost({&run, 1}));
                                  TANDEM_RETURN_IF_ERROR(world.AllReducePartialSums(some, {}));
                                  TANDEM_RETURN_IF_ERROR(device.memory().CopyFromHost({&run, 1}));
                                }
                                return absl::OkStatus();
                              }));
    }
    return absl::OkStatus();
  });
}

size_t FasterUpTo(const LinkTimes& first, const LinkTimes& second) {
  size_t bytes = 0;
  for (size_t i = 0; i < kTimedBytes.size() && first[i] <= second[i]; ++i) bytes = kTimedBytes[i];
  return bytes;
}

std::string TimeText(const LinkTimes& times, size_t bytes) {
  const auto* const next = std::lower_bound(kTimedBytes.begin(), kTimedBytes.end() - 1, bytes);
  const auto time = times[static_cast<size_t>(next - kTimedBytes.begin())];
  return fmt::format("{} KiB in {:.1f} us", *next >> 10,
                     std::chrono::duration<double, std::micro>(time).count());
}

}  // namespace tandem::parallel
