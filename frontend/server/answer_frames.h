#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "frontend/chat/generation.h"
#include "frontend/conversations/conversation_log.h"
#include "frontend/conversations/conversations.h"
#include "frontend/protocol/request.h"
#include "parallel/engine/engine.h"

/// Frames a server answers with (protocol version 1). All are valid UTF-8 JSON whatever goes in.
namespace tandem::frontend {

std::string AcceptedFrame(std::string_view id);
/// What a delta says besides its text.
struct DeltaExtras {
  std::optional<size_t> choice;                    // where there are several
  std::optional<nlohmann::ordered_json> logprobs;  // of the tokens of this delta
};
std::string DeltaFrame(std::string_view id, int64_t seq, std::string_view text,
                       const DeltaExtras& extras = {});

/// A request's outcome.
struct DoneContents {
  struct Choice {
    parallel::FinishReason reason = parallel::FinishReason::kStop;
    std::string_view text;
    std::optional<nlohmann::ordered_json> logprobs;
  };
  std::vector<Choice> choices;  // one stands for itself, several in a list
  std::optional<std::string> conversation;
  std::optional<bool> durable;  // the conversation's turn; where the server has a state directory
  std::optional<uint64_t> seed;
  DroppedInput dropped;
  parallel::Usage usage;
};
std::string DoneFrame(std::string_view id, const DoneContents& done);

/// An empty `id` is null in the frame: the request had none, or none that could be read.
/// `retry_after`: in how many seconds it is worth trying again.
std::string ErrorFrame(std::string_view id, ErrorCode code, std::string_view message,
                       std::optional<double> retry_after = std::nullopt);
/// `id` empty: the ping had none, and the pong has none.
std::string PongFrame(std::string_view id, bool ready);

/// What the server adds to the engine's own status.
struct ServerStatus {
  std::string model;
  int vocab = 0;
  int context = 0;
  int64_t clients = 0;        // with something open or waiting
  int64_t open_requests = 0;  // accepted and not answered in full
  int64_t conversations = 0;
  int64_t conversation_bytes = 0;
  int64_t damaged_conversations = 0;  // of these
  uint64_t answered_requests = 0;
  uint64_t cancelled_requests = 0;
  uint64_t failed_requests = 0;
  std::map<ErrorCode, uint64_t> refused;  // frames that were no request, or none to be taken
  uint64_t unknown_fields = 0;            // of requests
  double uptime_seconds = 0;
  bool engine_answers = true;  // in time; else its part is that of an earlier answer, and
  double engine_figures_age_seconds = 0;
  std::optional<ConversationLogStatus> state;  // where the server has a state directory
};
std::string StatusFrame(std::string_view id, const ServerStatus& server,
                        const parallel::EngineStatus& engine);

/// A page of a tenant's conversations.
std::string ConversationListFrame(std::string_view id, const Conversations::Page& page);
/// The messages from `from` on, as many as fit into about `bytes` (at least one), and where to go
/// on if these are not all.
std::string ConversationFrame(std::string_view id, const std::string& name,
                              const Conversation& conversation, size_t from, int64_t bytes);
std::string ConversationDeletedFrame(std::string_view id, const std::string& name);
std::string ConversationForkedFrame(std::string_view id, const std::string& name,
                                    const std::string& to);

}  // namespace tandem::frontend
