#include <algorithm>
#include <utility>

#include "frontend/server.h"

/// The server's conversations: their turns, and the commands on them.
namespace tandem::frontend {
namespace {

/// Of contents told in one frame.
constexpr int64_t kFrameBytes = int64_t{1} << 20;

/// About what a conversation grows by with these messages: they are kept as messages, as rendered
/// text and as tokens.
int64_t BytesOf(std::span<const ChatMessage> messages) {
  constexpr int64_t kCopies = 3;
  int64_t bytes = 0;
  for (const ChatMessage& message : messages) {
    bytes += static_cast<int64_t>(sizeof(message) + message.content.size()) * kCopies;
  }
  return bytes;
}

std::optional<std::string> IdOf(const std::string& id) {
  return id.empty() ? std::nullopt : std::optional(id);
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> Server::StartChat(RequestRecord& record,
                                                       GenerateRequest& request) {
  auto& messages = std::get<std::vector<ChatMessage>>(request.input);
  ChatInput input;
  input.policy = request.context_policy.value_or(options_.context_policy);
  input.max_tokens = request.params.max_tokens;
  if (!request.conversation) {
    input.messages = messages;
    TANDEM_ASSIGN_OR_RETURN(const ChatPrompt prompt, MakeChatPrompt(model_, input));
    record.dropped = prompt.dropped;
    return std::vector<int32_t>(prompt.tokens().begin(), prompt.tokens().end());
  }
  const ConversationName name{.tenant = request.tenant, .id = *request.conversation};
  TANDEM_ASSIGN_OR_RETURN(const Conversation* const conversation,
                          conversations_.Begin(name, record.id, BytesOf(messages)));
  ConversationTurn& turn = record.turn.emplace();  // from here on, Erase gives it up
  turn.name = name;
  std::vector<ChatMessage> all = conversation->messages;
  all.insert(all.end(), messages.begin(), messages.end());
  input.messages = all;
  input.history = &conversation->history;
  input.first = conversation->first;
  input.dropped_tokens = conversation->dropped_tokens;
  TANDEM_ASSIGN_OR_RETURN(turn.prompt, MakeChatPrompt(model_, input));
  turn.messages = std::move(messages);
  record.dropped = turn.prompt.dropped;
  return std::vector<int32_t>(turn.prompt.tokens().begin(), turn.prompt.tokens().end());
}

void Server::CommitTurn(RequestRecord& record, const AnswerChoice& choice) {
  ConversationTurn turn = *std::exchange(record.turn, std::nullopt);
  const AnswerWriter::Certain certain = choice.writer->certain();
  ChatHistory history = HistoryAfterAnswer(std::move(turn.prompt.whole), choice.text,
                                           certain.tokens, certain.text_bytes);
  turn.messages.push_back({"assistant", choice.text});
  conversations_.Commit(turn.name, std::move(turn.messages), turn.prompt.first,
                        turn.prompt.dropped_tokens, std::move(history));
}

void Server::Handle(const std::string& client, const std::string& id,
                    const ConversationListRequest& request) {
  router_->Send(client,
                ConversationListFrame(id, conversations_.List(request.tenant, request.after,
                                                              static_cast<size_t>(request.limit))));
}

void Server::Handle(const std::string& client, const std::string& id,
                    const ConversationGetRequest& request) {
  const absl::StatusOr<const Conversation*> found =
      conversations_.Get({.tenant = request.tenant, .id = request.conversation});
  if (!found.ok()) {
    Refuse(client, IdOf(id), found.status());
    return;
  }
  router_->Send(client, ConversationFrame(id, request.conversation, **found,
                                          static_cast<size_t>(request.from), kFrameBytes));
}

void Server::Handle(const std::string& client, const std::string& id,
                    const ConversationDeleteRequest& request) {
  const absl::Status status =
      conversations_.Delete({.tenant = request.tenant, .id = request.conversation});
  if (!status.ok()) {
    Refuse(client, IdOf(id), status);
    return;
  }
  router_->Send(client, ConversationDeletedFrame(id, request.conversation));
}

void Server::Handle(const std::string& client, const std::string& id,
                    const ConversationForkRequest& request) {
  const absl::Status status =
      conversations_.Fork({.tenant = request.tenant, .id = request.conversation}, request.to);
  if (!status.ok()) {
    Refuse(client, IdOf(id), status);
    return;
  }
  router_->Send(client, ConversationForkedFrame(id, request.conversation, request.to));
}

}  // namespace tandem::frontend
