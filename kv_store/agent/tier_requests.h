#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "kv_store/agent_link/agent_codec.h"
#include "kv_store/records/tier.h"

namespace tandem::kv_store {

/// Does what a request asks of a tier, for Put, Get, Exists, Use, Flush and Erase; nothing for
/// other messages. answer_bytes: of records in one answer, about. Thread safety: the tier's.
std::optional<AgentMessage> DoWithTier(Tier& tier, const AgentMessage& request,
                                       int64_t answer_bytes);

/// What an agent says to messages that it does not do.
AgentStatus NoRequest(const AgentMessage& message);

/// A frame's answer, with its number: `answer`'s, or an error if it is no frame.
AgentParts AnswerFrame(const AgentParts& request,
                       const std::function<AgentMessage(const AgentMessage&)>& answer);

}  // namespace tandem::kv_store
