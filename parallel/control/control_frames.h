#pragma once

#include <cstdint>
#include <string>

#include "core/base/wire.h"
#include "parallel/control/control_channel.h"

namespace tandem::parallel {

inline constexpr uint16_t kControlVersion = 3;

/// First byte of every frame of the ZeroMQ control channel; numbers are little endian.
enum class ControlFrame : uint8_t {
  kHello = 1,    // follower: ControlHello
  kWelcome = 2,  // rank 0
  kPlan = 3,     // rank 0: an encoded step plan
  kPing = 4,  // both: nothing; sent to show that one lives, and to learn whether the other is there
  kAck = 5,   // follower: Acknowledgement
  kFailed = 6,   // follower: why it gives up (ControlFailure)
  kReport = 7,   // follower: an encoded record report
  kStalled = 8,  // follower: which collective takes too long (ControlFailure)
};

struct ControlHello {
  uint16_t version = kControlVersion;
  int32_t rank = 0;
};
template <typename Archive>
void Fields(Archive& archive, ControlHello& hello) {
  archive(hello.version, hello.rank);
}

/// The rank is known by who sends it.
template <typename Archive>
void Fields(Archive& archive, Acknowledgement& acknowledgement) {
  archive(acknowledgement.step, acknowledgement.digest);
}

struct ControlFailure {
  std::string why;
};
template <typename Archive>
void Fields(Archive& archive, ControlFailure& failure) {
  constexpr size_t kLongest = 1 << 16;
  archive(core::AtMost(failure.why, kLongest, "bytes of a reason"));
}

template <typename... Field>
std::vector<std::byte> FrameOf(ControlFrame kind, const Field&... fields) {
  core::WireWriter writer;
  writer(static_cast<uint8_t>(kind), fields...);
  return writer.Take();
}

/// Where in the ZeroMQ ROUTER a rank is found.
inline std::string RoutingIdOf(int rank) { return fmt::format("rank-{}", rank); }

}  // namespace tandem::parallel
