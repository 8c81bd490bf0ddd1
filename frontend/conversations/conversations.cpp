#include "frontend/conversations/conversations.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/base/counted.h"
#include "core/base/retry_after.h"
#include "frontend/text/name_number.h"
#include "kv_store/base/chain_blocks.h"

namespace tandem::frontend {
namespace {

constexpr double kBusySeconds = 1;

absl::Status NoSuch(const ConversationName& name) {
  return NotFound("there is no conversation \"{}\"{}; conversation.list tells which there are",
                  name.id,
                  name.tenant.empty() ? "" : fmt::format(" of tenant \"{}\"", name.tenant));
}

absl::Status Busy(const ConversationName& name, const Conversation& conversation) {
  return WithRetryAfter(
      ResourceExhausted("conversation \"{}\" is being answered (request \"{}\"): one answer at a "
                        "time; wait for its end, or cancel it",
                        name.id, conversation.answering),
      kBusySeconds);
}

int64_t NameBytes(const ConversationName& name) {
  return static_cast<int64_t>(name.tenant.size() + name.id.size());
}

}  // namespace

size_t CommonTokens(std::span<const int32_t> a, std::span<const int32_t> b) {
  const auto differs = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return static_cast<size_t>(differs.first - a.begin());
}

bool IsResponseId(std::string_view id) {
  constexpr std::string_view kPrefix = "resp_";
  constexpr size_t kDigits = 32;
  return id.size() == kPrefix.size() + kDigits && id.starts_with(kPrefix) &&
         id.substr(kPrefix.size()).find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

int64_t Conversation::bytes() const {
  size_t bytes = sizeof(Conversation) + history.tokens.size() * sizeof(int32_t);
  for (const ChatMessage& message : messages) {
    bytes += sizeof(ChatMessage) + message.role.size() + message.content.size();
  }
  for (const TextSegment& segment : history.segments) {
    bytes += sizeof(TextSegment) + segment.text.size();
  }
  return static_cast<int64_t>(bytes);
}

absl::Status Conversations::CheckRoom(int64_t more_conversations, int64_t more_bytes) const {
  if (count() + more_conversations > limits_.conversations) {
    return ResourceExhausted(
        "{} kept, and no more than {}: delete one (conversation.list tells which there are, "
        "conversation.delete), or start the server with a larger --max-conversations",
        Counted(count(), "conversation is", "conversations are"), limits_.conversations);
  }
  if (bytes_ + more_bytes > limits_.bytes) {
    return ResourceExhausted(
        "the conversations take {} bytes, {} more are needed, and {} is the limit: delete one "
        "(conversation.list tells their sizes, conversation.delete), or start the server with a "
        "larger --conversation-memory",
        bytes_, more_bytes, limits_.bytes);
  }
  return absl::OkStatus();
}

void Conversations::Restore(const ConversationName& name, Conversation conversation) {
  if (const auto found = conversations_.find(name); found != conversations_.end()) Erase(found);
  Insert(name, std::move(conversation));
}

Conversation& Conversations::Insert(const ConversationName& name, Conversation conversation) {
  bytes_ += NameBytes(name) + conversation.bytes();
  if (IsResponseId(name.id)) responses_.emplace(name.id, name.tenant);
  return conversations_[name] = std::move(conversation);
}

void Conversations::Erase(std::map<ConversationName, Conversation>::iterator conversation) {
  const ConversationName& name = conversation->first;
  bytes_ -= NameBytes(name) + conversation->second.bytes();
  responses_.erase({name.id, name.tenant});
  conversations_.erase(conversation);
}

std::optional<ConversationName> Conversations::ResponseToDrop(int64_t more_conversations,
                                                              int64_t more_bytes,
                                                              const ConversationName& kept) const {
  if (CheckRoom(more_conversations, more_bytes).ok()) return std::nullopt;
  if (more_bytes > limits_.bytes || limits_.conversations == 0) return std::nullopt;
  for (const auto& [id, tenant] : responses_) {
    ConversationName oldest{.tenant = tenant, .id = id};
    if (oldest != kept && conversations_.at(oldest).answering.empty()) return oldest;
  }
  return std::nullopt;
}

absl::StatusOr<const Conversation*> Conversations::Begin(const ConversationName& name,
                                                         const std::string& request,
                                                         int64_t new_bytes) {
  const auto found = conversations_.find(name);
  const bool is_new = found == conversations_.end();
  if (!is_new && !found->second.answering.empty()) return Busy(name, found->second);
  TANDEM_RETURN_IF_ERROR(CheckRoom(is_new ? 1 : 0, new_bytes));
  Conversation& conversation = is_new ? Insert(name, {}) : found->second;
  conversation.answering = request;
  return &conversation;
}

void Conversations::Commit(const ConversationName& name, std::vector<ChatMessage> more,
                           size_t first, int64_t dropped_tokens, ChatHistory history,
                           std::optional<TurnOutcome> outcome) {
  Conversation& conversation = conversations_.at(name);
  bytes_ -= conversation.bytes();
  std::move(more.begin(), more.end(), std::back_inserter(conversation.messages));
  conversation.first = first;
  conversation.dropped_tokens = dropped_tokens;
  conversation.outcome = std::move(outcome);
  conversation.history = std::move(history);
  conversation.answering.clear();
  conversation.damaged = false;  // that was accepted
  bytes_ += conversation.bytes();
}

void Conversations::Abandon(const ConversationName& name) {
  const auto found = conversations_.find(name);
  if (found == conversations_.end()) return;
  found->second.answering.clear();
  if (found->second.messages.empty() && !found->second.damaged) Erase(found);
}

absl::StatusOr<const Conversation*> Conversations::Get(const ConversationName& name) const {
  const auto found = conversations_.find(name);
  if (found == conversations_.end()) return NoSuch(name);
  return &found->second;
}

absl::Status Conversations::Delete(const ConversationName& name) {
  const auto found = conversations_.find(name);
  if (found == conversations_.end()) return NoSuch(name);
  if (!found->second.answering.empty()) return Busy(name, found->second);
  Erase(found);
  return absl::OkStatus();
}

absl::Status Conversations::Fork(const ConversationName& from, const std::string& to) {
  const auto found = conversations_.find(from);
  if (found == conversations_.end()) return NoSuch(from);
  const ConversationName name{.tenant = from.tenant, .id = to};
  TANDEM_RETURN_IF_ERROR(CheckWhole(from));
  if (conversations_.contains(name)) {
    return InvalidArgument("to: there is a conversation \"{}\" already; choose another name", to);
  }
  Conversation copy = found->second;
  copy.answering.clear();
  if (copy.messages.empty()) return NoSuch(from);
  TANDEM_RETURN_IF_ERROR(CheckRoom(1, NameBytes(name) + copy.bytes()));
  Insert(name, std::move(copy));
  return absl::OkStatus();
}

absl::Status Conversations::CheckWhole(const ConversationName& name) const {
  const auto found = conversations_.find(name);
  if (found == conversations_.end() || !found->second.damaged) return absl::OkStatus();
  return absl::DataLossError(
      fmt::format("conversation \"{}\" is damaged on disk: its first {} messages are kept "
                  "(conversation.get tells them), later ones are lost; go on from there with "
                  "\"accept_damage\":true, or conversation.delete it",
                  name.id, found->second.messages.size()));
}

int64_t Conversations::damaged() const {
  return std::count_if(conversations_.begin(), conversations_.end(),
                       [](const auto& entry) { return entry.second.damaged; });
}

std::vector<kv_store::BlockHash> Conversations::LeftBehind(const std::string& tenant,
                                                           std::span<const int32_t> tokens) const {
  size_t known = 0;  // of the first tokens, that a conversation has at its beginning
  for (auto it = conversations_.lower_bound({.tenant = tenant, .id = ""});
       it != conversations_.end() && it->first.tenant == tenant && known < tokens.size(); ++it) {
    known = std::max(known, CommonTokens(tokens, it->second.history.tokens));
  }
  return kv_store::BlocksOfChain(NumberOf(tenant), tokens, known);
}

Conversations::Page Conversations::List(const std::string& tenant, const std::string& after,
                                        size_t limit) const {
  Page page;
  for (auto it = conversations_.upper_bound({.tenant = tenant, .id = after});
       it != conversations_.end() && it->first.tenant == tenant; ++it) {
    if (page.conversations.size() == limit) {
      page.more = true;
      break;
    }
    page.conversations.emplace_back(it->first.id, &it->second);
  }
  return page;
}

}  // namespace tandem::frontend
