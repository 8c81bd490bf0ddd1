#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "frontend/conversations/conversations.h"

namespace tandem::frontend {

/// What a turn changes in a conversation, as small as the turn: what a conversation's history keeps
/// is named by its length.
struct ConversationDelta {
  std::vector<ChatMessage> messages;  // said in this turn
  uint64_t first = 0;                 // as in Conversation, from now on
  int64_t dropped_tokens = 0;
  uint64_t kept_segments = 0;  // of the history's, from its beginning
  std::vector<TextSegment> segments;
  uint64_t kept_tokens = 0;
  std::vector<int32_t> tokens;
  std::string attention;  // the history's, from now on
};

/// The change from `before` to a conversation with `more` messages and the rest as it is told.
ConversationDelta DeltaFrom(const Conversation& before, const std::vector<ChatMessage>& more,
                            size_t first, int64_t dropped_tokens, const ChatHistory& history);
/// The whole of a conversation as a change of an empty one.
ConversationDelta DeltaOf(const Conversation& whole);
/// kDataLoss if it is no change of this conversation; then that is left as it was.
absl::Status Apply(ConversationDelta delta, Conversation& conversation);

}  // namespace tandem::frontend
