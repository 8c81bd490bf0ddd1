#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "frontend/conversations/conversation_log.h"
#include "frontend/protocol/error_code.h"
#include "parallel/engine/engine.h"

namespace tandem::frontend {

/// How the gateway for HTTP does, beside the ZeroMQ server.
struct HttpStatus {
  std::string address;
  int64_t connections = 0;
  uint64_t requests = 0;  // answered, errors included
};

/// How the service does, besides the engine's own status.
struct ServiceStatus {
  std::string model;
  int vocab = 0;
  int context = 0;
  int64_t open_requests = 0;  // accepted and not answered in full
  int64_t conversations = 0;
  int64_t conversation_bytes = 0;
  int64_t damaged_conversations = 0;  // of these
  uint64_t answered_requests = 0;
  uint64_t cancelled_requests = 0;
  uint64_t failed_requests = 0;
  std::map<ErrorCode, uint64_t> refused;  // what was no request, or none to be taken
  uint64_t unknown_fields = 0;            // of requests
  double uptime_seconds = 0;
  bool engine_answers = true;  // in time; else its part is that of an earlier answer, and
  double engine_figures_age_seconds = 0;
  std::optional<ConversationLogStatus> state;  // where there is a state directory
  std::optional<HttpStatus> http;              // where there is a gateway
  parallel::EngineStatus engine;
};

}  // namespace tandem::frontend
