#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "frontend/generation.h"
#include "frontend/text_model.h"

/// Requests of the ZeroMQ protocol, version 1: one frame a message, UTF-8 JSON. Unknown fields are
/// ignored; fields known from elsewhere that are not built yet are refused, never silently dropped.
/// Answers are made in answer_frames.h.
namespace tandem::frontend {

enum class ErrorCode : uint8_t {
  kInvalidArgument,
  kNotFound,
  kTooLarge,
  kOverloaded,
  kUnavailable,
  kUnimplemented,
  kDeadlineExceeded,
  kCancelled,
  kInternal,
};
/// The code as the protocol spells it, e.g. "invalid_argument".
std::string_view ErrorCodeName(ErrorCode code);
/// The code that answers a failed status.
ErrorCode ErrorCodeOf(const absl::Status& status);

struct ProtocolLimits {
  int64_t frame_bytes = int64_t{1} << 20;
  int depth = 32;      // of JSON nesting
  int id_bytes = 256;  // of a request's id
  int stop_strings = 64;
  int stop_bytes = 4096;  // of one stop string
  int logit_biases = 4096;
};

/// Input and sampling of `chat` and `complete`.
struct GenerateRequest {
  /// Messages of a chat, or raw text, or token ids.
  std::variant<std::vector<ChatMessage>, std::string, std::vector<int32_t>> input;
  GenerationParams params;
  std::optional<double> deadline_seconds;  // from arrival
};
struct CancelRequest {};
struct PingRequest {};
struct StatusRequest {};

struct Request {
  std::string id;            // empty where a ping or status had none
  uint64_t fingerprint = 0;  // equal for equal requests; tells a repeat from a reused id
  std::variant<GenerateRequest, CancelRequest, PingRequest, StatusRequest> body;
};

/// Why a frame was refused. `id` is the request's where it could be read.
struct RequestError {
  std::optional<std::string> id;
  ErrorCode code = ErrorCode::kInvalidArgument;
  std::string message;
};

/// Reads and checks one frame. Never throws; work and memory are bounded by the frame's size.
std::variant<Request, RequestError> ParseRequest(std::string_view frame,
                                                 const ProtocolLimits& limits);

}  // namespace tandem::frontend
