#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "frontend/chat/text_model.h"
#include "frontend/conversations/conversations.h"
#include "frontend/protocol/error_code.h"
#include "frontend/service/answer_events.h"
#include "frontend/service/service_status.h"

/// Frames a server answers with (protocol version 1). All are valid UTF-8 JSON whatever goes in.
namespace tandem::frontend {

std::string AcceptedFrame(std::string_view id);
/// What a delta says besides its text.
struct DeltaExtras {
  std::optional<size_t> choice;                    // where there are several
  std::optional<nlohmann::ordered_json> logprobs;  // of the tokens of this delta
};
std::string ScaleFrame(std::string_view id, const parallel::EngineScale& scale);
std::string NoticeFrame(std::string_view id, std::string_view text);
std::string DeltaFrame(std::string_view id, int64_t seq, std::string_view text,
                       const DeltaExtras& extras = {});

std::string DoneFrame(std::string_view id, const DoneContents& done, const TextModel& model);

/// An empty `id` is null in the frame: the request had none, or none that could be read.
/// `retry_after`: in how many seconds it is worth trying again.
std::string ErrorFrame(std::string_view id, ErrorCode code, std::string_view message,
                       std::optional<double> retry_after = std::nullopt);
/// `id` empty: the ping had none, and the pong has none.
std::string PongFrame(std::string_view id, bool ready);

/// `clients`: with something open or waiting.
std::string StatusFrame(std::string_view id, int64_t clients, const ServiceStatus& status);

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
