#pragma once

#include "frontend/conversations/conversation_delta.h"
#include "tests/support/random.h"

namespace tandem::testing {

/// Random turns of conversations, with text that can be looked for on a disk.
class RandomConversations {
 public:
  explicit RandomConversations(uint64_t seed) : random_(seed) {}

  uint64_t Below(uint64_t n) { return random_.Next() % n; }

  /// Goes on with a conversation: mostly appends, sometimes changes what was before.
  frontend::Conversation Next(const frontend::Conversation& before) {
    frontend::Conversation next = before;
    const uint64_t messages = 1 + Below(3);
    for (uint64_t i = 0; i < messages; ++i) {
      next.messages.push_back({i % 2 == 0 ? "user" : "assistant", Text()});
    }
    frontend::ChatHistory& history = next.history;
    if (Below(5) == 0) {
      history.segments.resize(Below(history.segments.size() + 1));
      history.tokens.resize(Below(history.tokens.size() + 1));
      next.first = Below(next.messages.size() + 1);
      next.dropped_tokens += static_cast<int64_t>(Below(100));
    }
    for (uint64_t i = Below(5); i > 0; --i) history.segments.push_back({Text(), Below(2) == 0});
    for (uint64_t i = Below(200); i > 0; --i) {
      history.tokens.push_back(static_cast<int32_t>(Below(50000)));
    }
    constexpr const char* kForms[] = {"", "sparse:window=64", "sparse:window=7,random=2"};
    if (Below(4) == 0) history.attention = kForms[Below(3)];
    return next;
  }

  /// What the turn from `before` to `after` said.
  static std::vector<frontend::ChatMessage> Said(const frontend::Conversation& before,
                                                 const frontend::Conversation& after) {
    return {after.messages.begin() + static_cast<ptrdiff_t>(before.messages.size()),
            after.messages.end()};
  }
  static frontend::ConversationDelta Delta(const frontend::Conversation& before,
                                           const frontend::Conversation& after) {
    return frontend::DeltaFrom(before, Said(before, after), after.first, after.dropped_tokens,
                               after.history);
  }

  std::string Text() {
    std::string text = "plaintext-of-a-user-";
    for (uint64_t i = Below(60); i > 0; --i) text.push_back(static_cast<char>(Below(256)));
    return text;
  }

 private:
  SplitMix random_;
};

inline bool Same(const frontend::Conversation& a, const frontend::Conversation& b) {
  return a.messages == b.messages && a.first == b.first && a.dropped_tokens == b.dropped_tokens &&
         a.history.segments == b.history.segments && a.history.tokens == b.history.tokens &&
         a.history.attention == b.history.attention;
}

}  // namespace tandem::testing
