#include "frontend/conversations/conversation_delta.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace tandem::frontend {
namespace {

/// How many elements two sequences begin with in common.
template <typename T>
size_t CommonBeginning(const std::vector<T>& a, const std::vector<T>& b) {
  return static_cast<size_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first -
                             a.begin());
}

template <typename T>
std::vector<T> From(const std::vector<T>& all, size_t begin) {
  return {all.begin() + static_cast<ptrdiff_t>(begin), all.end()};
}

template <typename T>
void Replace(std::vector<T>& all, size_t kept, std::vector<T> rest) {
  all.resize(kept);
  std::move(rest.begin(), rest.end(), std::back_inserter(all));
}

}  // namespace

ConversationDelta DeltaFrom(const Conversation& before, const std::vector<ChatMessage>& more,
                            size_t first, int64_t dropped_tokens, const ChatHistory& history) {
  ConversationDelta delta;
  delta.messages = more;
  delta.first = first;
  delta.dropped_tokens = dropped_tokens;
  delta.kept_segments = CommonBeginning(before.history.segments, history.segments);
  delta.segments = From(history.segments, delta.kept_segments);
  delta.kept_tokens = CommonBeginning(before.history.tokens, history.tokens);
  delta.tokens = From(history.tokens, delta.kept_tokens);
  delta.attention = history.attention;
  return delta;
}

ConversationDelta DeltaOf(const Conversation& whole) {
  return DeltaFrom({}, whole.messages, whole.first, whole.dropped_tokens, whole.history);
}

absl::Status Apply(ConversationDelta delta, Conversation& conversation) {
  ChatHistory& history = conversation.history;
  const size_t messages = conversation.messages.size() + delta.messages.size();
  if (delta.kept_segments > history.segments.size() || delta.kept_tokens > history.tokens.size() ||
      delta.first > messages || delta.dropped_tokens < 0) {
    return absl::DataLossError(fmt::format(
        "a turn that keeps {} of {} segments and {} of {} tokens, and begins with message {} of {}",
        delta.kept_segments, history.segments.size(), delta.kept_tokens, history.tokens.size(),
        delta.first, messages));
  }
  std::move(delta.messages.begin(), delta.messages.end(),
            std::back_inserter(conversation.messages));
  conversation.first = delta.first;
  conversation.dropped_tokens = delta.dropped_tokens;
  Replace(history.segments, delta.kept_segments, std::move(delta.segments));
  Replace(history.tokens, delta.kept_tokens, std::move(delta.tokens));
  history.attention = std::move(delta.attention);
  return absl::OkStatus();
}

}  // namespace tandem::frontend
