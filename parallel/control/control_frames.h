#pragma once

#include <cstdint>
#include <string>

#include "fmt/format.h"

namespace tandem::parallel {

inline constexpr uint16_t kControlVersion = 2;

/// First byte of every frame of the ZeroMQ control channel; numbers are little endian.
enum class ControlFrame : uint8_t {
  kHello = 1,    // follower: version u16, rank i32
  kWelcome = 2,  // rank 0
  kPlan = 3,     // rank 0: an encoded step plan
  kPing = 4,     // rank 0: nothing; sent to learn whether the follower is still there
  kAck = 5,      // follower: step u64, digest 16 bytes
  kFailed = 6,   // follower: why it gives up, counted text
  kReport = 7,   // follower: an encoded record report
};

/// Where in the ZeroMQ ROUTER a rank is found.
inline std::string RoutingIdOf(int rank) { return fmt::format("rank-{}", rank); }

}  // namespace tandem::parallel
