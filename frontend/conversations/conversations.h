#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/status.h"
#include "frontend/chat/chat_prompt.h"
#include "frontend/chat/text_model.h"
#include "kv_store/base/block_hash.h"
#include "parallel/engine/engine.h"

namespace tandem::frontend {

/// Whose conversation, and its name there.
struct ConversationName {
  std::string tenant;
  std::string id;
  auto operator<=>(const ConversationName&) const = default;
};

/// Whether a conversation is a response that the HTTP gateway has stored by itself: its id is
/// "resp_" and 32 hexadecimal digits, which sort as the responses were made.
bool IsResponseId(std::string_view id);

/// How the last turn of a conversation was answered.
struct TurnOutcome {
  parallel::FinishReason reason = parallel::FinishReason::kStop;
  parallel::Usage usage;
};

/// What the server remembers of a conversation.
struct Conversation {
  std::vector<ChatMessage> messages;  // all that were said, left out by a context policy or not
  size_t first = 0;            // the model no longer reads messages before it, but the system's
  int64_t dropped_tokens = 0;  // of these
  ChatHistory history;         // what the model has read and written; of the messages it reads
  bool damaged = false;        // turns of it are lost: this is what was kept
  /// Of a turn that this process has answered: it is not written to disk.
  std::optional<TurnOutcome> outcome = std::nullopt;
  std::string answering;  // id of the request that is being answered; empty: none is
  int64_t bytes() const;
};

/// With how many tokens both begin.
size_t CommonTokens(std::span<const int32_t> a, std::span<const int32_t> b);

struct ConversationLimits {
  int64_t conversations = 1024;
  int64_t bytes = int64_t{256} << 20;  // of all of them
};

/// The conversations of all tenants.
///
/// Invariants: only Commit changes a conversation, when an answer is complete; one request at a
/// time answers it. None is dropped here to make room: what does not fit is refused, unless the
/// caller deletes stored responses (ResponseToDrop). The bytes may exceed the limit by the answers
/// that were in progress when it was reached. Thread safety: one thread.
class Conversations {
 public:
  explicit Conversations(const ConversationLimits& limits) : limits_(limits) {}

  /// Adds one that was there before, whatever the limits say.
  void Restore(const ConversationName& name, Conversation conversation);

  /// Begins to answer a turn of a conversation, a new one where the name is free. `new_bytes`: of
  /// the messages to come. kResourceExhausted if it is being answered already (with a hint when to
  /// come back), or if there is no room, saying what to do.
  absl::StatusOr<const Conversation*> Begin(const ConversationName& name,
                                            const std::string& request, int64_t new_bytes);
  /// Ends a turn that Begin has begun, with the messages `more` and the new state of the rest.
  void Commit(const ConversationName& name, std::vector<ChatMessage> more, size_t first,
              int64_t dropped_tokens, ChatHistory history,
              std::optional<TurnOutcome> outcome = std::nullopt);
  /// Ends a turn without an answer: the conversation is what it was before.
  void Abandon(const ConversationName& name);

  /// kNotFound.
  absl::StatusOr<const Conversation*> Get(const ConversationName& name) const;
  /// kNotFound; kResourceExhausted while it is being answered.
  absl::Status Delete(const ConversationName& name);
  /// Gives a copy of what was said so far another name. kNotFound; kInvalidArgument if that name is
  /// taken; kResourceExhausted if there is no room.
  absl::Status Fork(const ConversationName& from, const std::string& to);

  /// The oldest stored response but `kept`, which is to be deleted so that so much more has room.
  /// Nothing: there is room, or no such deletion would help.
  std::optional<ConversationName> ResponseToDrop(int64_t more_conversations, int64_t more_bytes,
                                                 const ConversationName& kept) const;

  struct Page {
    std::vector<std::pair<std::string, const Conversation*>> conversations;  // by id
    bool more = false;
  };
  bool Has(const ConversationName& name) const { return conversations_.contains(name); }
  /// The blocks of these tokens' KV that no conversation of the tenant needs.
  std::vector<kv_store::BlockHash> LeftBehind(const std::string& tenant,
                                              std::span<const int32_t> tokens) const;

  /// A tenant's conversations after `after`, at most `limit`.
  Page List(const std::string& tenant, const std::string& after, size_t limit) const;

  /// kDataLoss, saying what is kept and what to do, if the conversation is damaged.
  absl::Status CheckWhole(const ConversationName& name) const;
  int64_t damaged() const;

  int64_t count() const { return static_cast<int64_t>(conversations_.size()); }
  int64_t bytes() const { return bytes_; }

 private:
  absl::Status CheckRoom(int64_t more_conversations, int64_t more_bytes) const;

  /// A new one.
  Conversation& Insert(const ConversationName& name, Conversation conversation);
  void Erase(std::map<ConversationName, Conversation>::iterator conversation);

  const ConversationLimits limits_;
  std::map<ConversationName, Conversation> conversations_;
  std::set<std::pair<std::string, std::string>> responses_;  // id and tenant; the oldest first
  int64_t bytes_ = 0;
};

}  // namespace tandem::frontend
