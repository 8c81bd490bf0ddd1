#include <algorithm>
#include <iterator>
#include <utility>

#include "frontend/service/service.h"

/// The service's conversations: their turns, and the commands on them.
namespace tandem::frontend {
namespace {

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

std::vector<int32_t> Joined(std::span<const int32_t> prompt, std::span<const int32_t> answer) {
  std::vector<int32_t> all(prompt.begin(), prompt.end());
  all.insert(all.end(), answer.begin(), answer.end());
  return all;
}

}  // namespace

absl::Status Service::BeginTurn(RequestRecord& record, Preparation& preparation) {
  const GenerateRequest& request = preparation.request;
  auto& messages = std::get<std::vector<ChatMessage>>(preparation.request.input);
  // The messages of a conversation and its answers take turns.
  if (request.render.continue_final_message || !request.render.add_generation_prompt) {
    return InvalidArgument(
        "{}: a conversation goes on with an answer of its own; leave out this field, or the "
        "conversation",
        request.render.continue_final_message ? "continue_final_message" : "add_generation_prompt");
  }
  const ConversationName name{.tenant = request.tenant, .id = *request.conversation};
  TANDEM_RETURN_IF_ERROR(FindOnDisk(name));
  if (!request.accept_damage) TANDEM_RETURN_IF_ERROR(conversations_.CheckWhole(name));
  MakeRoom(conversations_.Has(name) ? 0 : 1, BytesOf(messages), name);
  TANDEM_ASSIGN_OR_RETURN(const Conversation* const conversation,
                          conversations_.Begin(name, record.name.id, BytesOf(messages)));
  record.turn.emplace().name = name;  // from here on, DropRequest gives it up
  record.other_attention = !conversation->history.tokens.empty() &&
                           conversation->history.attention != options_.attention;
  TurnInput& turn = preparation.turn.emplace();
  turn.messages = conversation->messages;
  turn.new_from = turn.messages.size();
  std::move(messages.begin(), messages.end(), std::back_inserter(turn.messages));
  messages.clear();
  turn.history = conversation->history;
  turn.first = conversation->first;
  turn.dropped_tokens = conversation->dropped_tokens;
  return absl::OkStatus();
}

absl::Status Service::FindOnDisk(const ConversationName& name) {
  if (log_ == nullptr || conversations_.Has(name)) return absl::OkStatus();
  if (auto kept = log_->TakeDamaged(name)) conversations_.Restore(name, *std::move(kept));
  return log_->CheckReadable(name);
}

void Service::CommitTurn(RequestRecord& record, const AnswerChoice& choice) {
  ConversationTurn turn = *std::exchange(record.turn, std::nullopt);
  const AnswerWriter::Certain certain = choice.writer->certain();
  // What was computed until now, and may be of no use any more.
  std::vector<std::vector<int32_t>> chains;
  if (log_ != nullptr) {
    for (const AnswerChoice& one : record.choices) {
      chains.push_back(Joined(turn.prompt.tokens(), one.tokens));
    }
    chains.push_back((*conversations_.Get(turn.name))->history.tokens);
  }
  ChatHistory history = HistoryAfterAnswer(std::move(turn.prompt.whole), choice.text,
                                           certain.tokens, certain.text_bytes);
  history.attention = options_.attention;
  turn.messages.push_back({"assistant", choice.text});
  ConversationDelta delta;
  // Then the log begins it anew.
  const bool was_damaged = (*conversations_.Get(turn.name))->damaged;
  if (log_ != nullptr && !was_damaged) {
    delta = DeltaFrom(**conversations_.Get(turn.name), turn.messages, turn.prompt.first,
                      turn.prompt.dropped_tokens, history);
  }
  conversations_.Commit(turn.name, std::move(turn.messages), turn.prompt.first,
                        turn.prompt.dropped_tokens, std::move(history),
                        TurnOutcome{.reason = choice.answer->reason, .usage = record.done->usage});
  if (log_ == nullptr) return;
  if (was_damaged) delta = DeltaOf(**conversations_.Get(turn.name));
  const std::vector<int32_t>& now = (*conversations_.Get(turn.name))->history.tokens;
  std::vector<kv_store::BlockHash> left_behind;
  for (const std::vector<int32_t>& chain : chains) {
    if (std::mismatch(chain.begin(), chain.end(), now.begin(), now.end()).first == chain.end()) {
      continue;  // as most turns are: what was computed goes on
    }
    const std::vector<kv_store::BlockHash> blocks =
        conversations_.LeftBehind(turn.name.tenant, chain);
    left_behind.insert(left_behind.end(), blocks.begin(), blocks.end());
  }
  log_->Append(turn.name, std::move(delta), std::move(left_behind),
               [mailbox = mailbox_, key = record.key](absl::Status status) {
                 mailbox->Put({.key = key, .what = Mailbox::TurnLogged{std::move(status)}});
               });
}

void Service::AbandonTurn(RequestRecord& record, bool prepares) {
  const ConversationTurn turn = *std::exchange(record.turn, std::nullopt);
  conversations_.Abandon(turn.name);
  if (log_ == nullptr) return;
  AbandonedTurn abandoned;
  abandoned.tenant = turn.name.tenant;
  abandoned.prompt.assign(turn.prompt.tokens().begin(), turn.prompt.tokens().end());
  bool computed = prepares;
  abandoned.running = prepares ? 1 : 0;
  for (const AnswerChoice& choice : record.choices) {
    const bool submitted = prepares || choice.engine_id != 0;
    computed = computed || submitted;
    if (submitted && !choice.ended) ++abandoned.running;
    abandoned.answers.push_back(choice.tokens);
  }
  if (!computed) return;
  if (abandoned.running == 0) {
    EraseKv(abandoned);
  } else {
    abandoned_[record.key] = std::move(abandoned);
  }
}

void Service::TakeAbandoned(const Mailbox::Event& event) {
  const auto* prepared = std::get_if<std::unique_ptr<Prepared>>(&event.what);
  if (prepared != nullptr) {
    for (const parallel::RequestId id : (*prepared)->engine_ids) engine_.Cancel(id);
  }
  const auto found = abandoned_.find(event.key);
  if (found == abandoned_.end()) return;
  AbandonedTurn& turn = found->second;
  if (prepared != nullptr) {
    turn.prompt = (*prepared)->prompt_tokens;
    if ((*prepared)->status.ok()) {
      EndOneOf(found);
    } else {
      abandoned_.erase(found);  // nothing was computed
    }
  } else if (const auto* tokens = std::get_if<std::vector<int32_t>>(&event.what)) {
    std::vector<int32_t>& answer = turn.answers[event.choice];
    answer.insert(answer.end(), tokens->begin(), tokens->end());
  } else if (std::holds_alternative<parallel::Finish>(event.what)) {
    EndOneOf(found);
  }
}

void Service::EndOneOf(std::map<uint64_t, AbandonedTurn>::iterator turn) {
  if (--turn->second.running > 0) return;
  EraseKv(turn->second);
  abandoned_.erase(turn);
}

void Service::EraseKv(const AbandonedTurn& turn) {
  std::vector<kv_store::BlockHash> blocks;
  for (const std::vector<int32_t>& answer : turn.answers) {
    const std::vector<kv_store::BlockHash> some =
        conversations_.LeftBehind(turn.tenant, Joined(turn.prompt, answer));
    blocks.insert(blocks.end(), some.begin(), some.end());
  }
  if (!blocks.empty()) log_->EraseKv(std::move(blocks));
}

void Service::ListConversations(ConversationListRequest request, PageAnswer answer) {
  Call([this, request = std::move(request), answer = std::move(answer)] {
    answer(conversations_.List(request.tenant, request.after, static_cast<size_t>(request.limit)));
  });
}

void Service::GetConversation(ConversationGetRequest request, ConversationAnswer answer) {
  Call([this, request = std::move(request), answer = std::move(answer)] {
    const ConversationName name{.tenant = request.tenant, .id = request.conversation};
    const absl::Status readable = FindOnDisk(name);
    absl::StatusOr<const Conversation*> found = conversations_.Get(name);
    if (!readable.ok()) found = readable;
    if (!found.ok()) ++counts_.refused[ErrorCodeOf(found.status())];
    answer(found);
  });
}

void Service::DeleteConversation(ConversationDeleteRequest request, CommandAnswer answer) {
  Call([this, request = std::move(request), answer = std::move(answer)]() mutable {
    TakeDelete(request, std::move(answer));
  });
}

void Service::TakeDelete(const ConversationDeleteRequest& request, CommandAnswer answer) {
  const ConversationName name{.tenant = request.tenant, .id = request.conversation};
  const absl::StatusOr<std::vector<kv_store::BlockHash>> blocks = Delete(name);
  if (!blocks.ok() || log_ == nullptr) {
    Answer(answer, blocks.status());
  } else {
    log_->Erase(name, *blocks, AnswerWhenLogged(std::move(answer)));
  }
}

absl::StatusOr<std::vector<kv_store::BlockHash>> Service::Delete(const ConversationName& name) {
  // One that cannot be read is on disk only.
  if (!FindOnDisk(name).ok()) return std::vector<kv_store::BlockHash>();
  std::vector<int32_t> tokens;
  if (const auto found = conversations_.Get(name); found.ok()) tokens = (*found)->history.tokens;
  TANDEM_RETURN_IF_ERROR(conversations_.Delete(name));
  return conversations_.LeftBehind(name.tenant, tokens);
}

void Service::MakeRoom(int64_t more_conversations, int64_t more_bytes,
                       const ConversationName& kept) {
  while (const auto oldest = conversations_.ResponseToDrop(more_conversations, more_bytes, kept)) {
    const absl::StatusOr<std::vector<kv_store::BlockHash>> blocks = Delete(*oldest);
    if (!blocks.ok()) return;
    if (log_ != nullptr) log_->Erase(*oldest, *blocks, [](const absl::Status&) {});
  }
}

void Service::ForkConversation(ConversationForkRequest request, CommandAnswer answer) {
  Call([this, request = std::move(request), answer = std::move(answer)]() mutable {
    TakeFork(request, std::move(answer));
  });
}

void Service::TakeFork(const ConversationForkRequest& request, CommandAnswer answer) {
  const ConversationName from{.tenant = request.tenant, .id = request.conversation};
  const ConversationName to{.tenant = request.tenant, .id = request.to};
  absl::Status status = FindOnDisk(to);
  if (status.ok()) status = FindOnDisk(from);
  if (const auto found = conversations_.Get(from); status.ok() && found.ok()) {
    const auto name_bytes = static_cast<int64_t>(to.id.size() + to.tenant.size());
    MakeRoom(1, name_bytes + (*found)->bytes(), from);
  }
  if (status.ok()) status = conversations_.Fork(from, request.to);
  if (!status.ok() || log_ == nullptr) {
    Answer(answer, status);
  } else {
    log_->Append(to, DeltaOf(**conversations_.Get(to)), {}, AnswerWhenLogged(std::move(answer)));
  }
}

ConversationLog::Done Service::AnswerWhenLogged(CommandAnswer answer) {
  const uint64_t key = next_command_++;
  commands_[key] = std::move(answer);
  return [mailbox = mailbox_, key](absl::Status status) {
    mailbox->Put({.key = key, .what = Mailbox::CommandLogged{std::move(status)}});
  };
}

void Service::TakeCommand(uint64_t key, const absl::Status& status) {
  const auto found = commands_.find(key);
  if (found == commands_.end()) return;
  const CommandAnswer answer = std::move(found->second);
  commands_.erase(found);
  if (status.ok()) {
    answer(status);
  } else {
    Answer(answer, absl::Status(absl::StatusCode::kUnavailable,
                                fmt::format("it is done in memory, but not yet on disk ({}): the "
                                            "server goes on trying; status tells when it has "
                                            "succeeded",
                                            Message(status))));
  }
}

void Service::TakeLogged(RequestRecord& record, const absl::Status& status) {
  if (!record.unlogged) return;
  record.unlogged = false;
  record.done->durable = status.ok();
  SendDone(record);
}

bool Service::WaitsForLog() const {
  const std::vector<const RequestRecord*> open = requests_.AllOpen();
  return !commands_.empty() ||
         std::any_of(open.begin(), open.end(),
                     [](const RequestRecord* record) { return record->unlogged; });
}

}  // namespace tandem::frontend
