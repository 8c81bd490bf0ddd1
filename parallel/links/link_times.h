#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

#include "core/model/device_link.h"
#include "core/model/operations.h"
#include "parallel/communicators/communicator.h"

/// How fast and how well devices reduce, tried before the first step. Called by all ranks together;
/// all get the same results and errors, which name a rank.
namespace tandem::parallel {

/// Bytes of the reductions that are timed, ascending.
inline constexpr std::array<size_t, 7> kTimedBytes = {8 << 10,   16 << 10,  32 << 10, 64 << 10,
                                                      128 << 10, 256 << 10, 512 << 10};
/// Of each of kTimedBytes: the mean of all ranks, each of which took its best of some rounds.
using LinkTimes = std::array<std::chrono::nanoseconds, kTimedBytes.size()>;

/// Whether a link adds and gathers as it must: kUnavailable where it does not, or not in time.
absl::Status CheckLink(Communicator& world, core::Operations& device, core::DeviceLink& link);

/// After some reductions that are not timed.
absl::StatusOr<LinkTimes> TimeLink(Communicator& world, core::Operations& device,
                                   core::DeviceLink& link);
/// The same of what goes to the hosts' memory, is reduced there, and comes back.
absl::StatusOr<LinkTimes> TimeThroughHosts(Communicator& world, core::Operations& device);

/// Bytes up to which the first is never slower; 0 where it is slower with the least.
size_t FasterUpTo(const LinkTimes& first, const LinkTimes& second);

/// "32 KiB in 9.1 us": of the size that is timed next above `bytes`, or the largest.
std::string TimeText(const LinkTimes& times, size_t bytes);

}  // namespace tandem::parallel
