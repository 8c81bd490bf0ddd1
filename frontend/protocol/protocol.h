#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

#include "frontend/protocol/request.h"

/// The ZeroMQ protocol, version 1: one frame a message, UTF-8 JSON. Unknown fields are ignored. A
/// field that is planned but not built yet is refused, never silently dropped. answer_frames.h
/// makes the answers.
namespace tandem::frontend {

/// What is wrong with a frame of so many bytes: more than the limits allow.
std::string TooLarge(uint64_t bytes, const ProtocolLimits& limits);

/// Reads and checks one frame. Never throws; work and memory are bounded by the frame's size.
std::variant<Request, RequestError> ParseRequest(std::string_view frame,
                                                 const ProtocolLimits& limits);

}  // namespace tandem::frontend
