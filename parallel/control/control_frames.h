#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "core/base/wire.h"
#include "parallel/communicators/progress_board.h"
#include "parallel/control/control_channel.h"

namespace tandem::parallel {

inline constexpr uint16_t kControlVersion = 5;
/// A follower that gives up stays so long, since what starts the ranks ends all others when it
/// goes.
inline constexpr std::chrono::milliseconds kFailureStay{400};

/// First byte of every frame of the ZeroMQ control channel; numbers are little endian.
enum class ControlFrame : uint8_t {
  kHello = 1,    // follower: ControlHello
  kWelcome = 2,  // rank 0
  kPlan = 3,     // rank 0: an encoded step plan
  /// Both, to show that one lives, and to learn whether the other is there. Of a follower it has an
  /// optional ControlProgress, of rank 0 nothing.
  kPing = 4,
  kAck = 5,      // follower: Acknowledgement
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
  archive(acknowledgement.step, acknowledgement.digest, acknowledgement.reduce_nanoseconds);
}

struct ControlFailure {
  std::string why;
};
template <typename Archive>
void Fields(Archive& archive, ControlFailure& failure) {
  constexpr size_t kLongest = 1 << 16;
  archive(core::AtMost(failure.why, kLongest, "bytes of a reason"));
}

/// Where a follower is in a step.
struct ControlProgress {
  core::StepPhase phase;
  uint64_t collectives = 0;
  bool waiting = false;
  uint64_t milliseconds = 0;  // since it entered or left: clocks of hosts differ
};
template <typename Archive>
void Fields(Archive& archive, ControlProgress& progress) {
  constexpr uint64_t kLongest = uint64_t{1} << 40;
  archive(progress.phase.step, progress.phase.layer,
          core::UpTo(progress.phase.kind, core::StepPhase::Kind::kOther, "a phase"),
          progress.collectives, progress.waiting, progress.milliseconds);
  archive.Require(progress.milliseconds <= kLongest, "a rank that has waited for ages");
}

/// What a rank says of itself; nothing where no board is kept.
inline std::optional<ControlProgress> ProgressOf(const ProgressBoard* board, int rank) {
  if (board == nullptr) return std::nullopt;
  const RankProgress at = board->Read(rank);
  const auto now = std::chrono::steady_clock::now();
  if (at.since == std::chrono::steady_clock::time_point() || now < at.since) return std::nullopt;
  const auto age = std::chrono::duration_cast<std::chrono::milliseconds>(now - at.since);
  return ControlProgress{.phase = at.phase,
                         .collectives = at.collectives,
                         .waiting = at.waiting,
                         .milliseconds = static_cast<uint64_t>(age.count())};
}

/// The same as rank 0 has it.
inline RankProgress HeardProgress(const ControlProgress& progress) {
  return {.phase = progress.phase,
          .collectives = progress.collectives,
          .waiting = progress.waiting,
          .since = std::chrono::steady_clock::now() -
                   std::chrono::milliseconds(static_cast<int64_t>(progress.milliseconds)),
          .heard = true};
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
