#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

#include "frontend/protocol/request.h"

/// The ZeroMQ protocol, version 1: one frame a message, UTF-8 JSON. A field
/// that would change the answer and is not built is refused, never silently dropped; fields that
/// nobody knows are counted (known_fields.h). answer_frames.h makes the answers.
namespace tandem::frontend {

/// What is wrong with a frame of so many bytes: more than the limits allow.
std::string TooLarge(uint64_t bytes, const ProtocolLimits& limits);

/// The id of a frame of which only the beginning is there, or which is no JSON from some byte on;
/// empty where there is none to be read.
std::string IdIn(std::string_view beginning, const ProtocolLimits& limits);

/// Reads and checks one frame. Never throws; work and memory are bounded by the frame's size.
std::variant<Request, RequestError> ParseRequest(std::string_view frame,
                                                 const ProtocolLimits& limits);

}  // namespace tandem::frontend
