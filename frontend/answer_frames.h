#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "frontend/generation.h"
#include "frontend/protocol.h"
#include "parallel/engine.h"

/// Frames a server answers with (protocol version 1). All are valid UTF-8 JSON whatever goes in.
namespace tandem::frontend {

std::string AcceptedFrame(std::string_view id);
std::string DeltaFrame(std::string_view id, int64_t seq, std::string_view text);
std::string DoneFrame(std::string_view id, const Answer& answer);
/// `id` is null in the frame where the request's could not be read.
std::string ErrorFrame(const std::optional<std::string>& id, ErrorCode code,
                       std::string_view message);
/// `id` empty: the ping had none, and the pong has none.
std::string PongFrame(std::string_view id, bool ready);

/// What the server adds to the engine's own status.
struct ServerStatus {
  std::string model;
  int vocab = 0;
  int context = 0;
  int64_t clients = 0;        // with something open or waiting
  int64_t open_requests = 0;  // accepted and not answered in full
  uint64_t answered_requests = 0;
  uint64_t cancelled_requests = 0;
  uint64_t failed_requests = 0;
  uint64_t refused_frames = 0;
  double uptime_seconds = 0;
};
std::string StatusFrame(std::string_view id, const ServerStatus& server,
                        const parallel::EngineStatus& engine);

}  // namespace tandem::frontend
