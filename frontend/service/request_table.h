#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "frontend/chat/chat_prompt.h"
#include "frontend/chat/generation.h"
#include "frontend/conversations/conversations.h"
#include "frontend/service/answer_events.h"
#include "parallel/engine/engine.h"

namespace tandem::frontend {

/// One of the answers to a request, while it grows and afterwards.
struct AnswerChoice {
  parallel::RequestId engine_id = 0;
  std::optional<AnswerWriter> writer;  // while the request is open
  bool cancelled = false;              // the engine has been told to end it
  bool ended = false;                  // the engine has
  /// All that the engine told, also behind a stop string; kept for turns of conversations only.
  std::vector<int32_t> tokens;
  std::optional<Answer> answer;  // its outcome, without text, once the engine has finished
  std::string echo;              // the prompt's text, as long as it was not delivered

  std::string text;  // delivered so far
  /// Of the tokens so far: of the prompt where it is echoed, then of the answer.
  std::vector<parallel::TokenLogprobs> logprobs;
  size_t prompt_logprobs = 0;  // of them, those of the prompt
  size_t sent_logprobs = 0;    // of them, those that were delivered
};

/// A turn of a conversation that is being answered.
struct ConversationTurn {
  ConversationName name;
  std::vector<ChatMessage> messages;  // the new ones
  ChatPrompt prompt;
};

/// A client by its connection identity, and the id that it gave a request; empty: it gave none.
struct RequestName {
  std::string client;
  std::string id;
  auto operator<=>(const RequestName&) const = default;
};

/// One request of a client, from acceptance until its answer is dropped.
struct RequestRecord {
  using Time = std::chrono::steady_clock::time_point;
  struct Delta {
    size_t choice = 0;
    size_t text_end = 0;      // in the choice's text
    size_t logprobs_end = 0;  // in its logprobs
  };
  struct Replay {
    size_t next = 0;            // of the deltas
    std::vector<Delta> begins;  // [choices] the last one before that
  };

  RequestName name;
  std::shared_ptr<AnswerEvents> events;  // never null
  uint64_t fingerprint = 0;
  uint64_t key = 0;              // the service's own number
  std::optional<uint64_t> seed;  // where the answer is sampled
  std::optional<Time> deadline;
  /// Set: the client is gone, and this is when it is no longer waited for.
  std::optional<Time> detached_until;
  bool cancelled = false;                // by the client
  bool preparing = true;                 // the engine has not taken it yet
  int accepts = 1;                       // times to say so once it has
  int32_t prompt_tokens = 0;             // once it has
  bool wants_logprobs = false;           // of each token
  std::optional<ConversationTurn> turn;  // while open; of a conversation
  DroppedInput dropped;
  bool other_attention = false;      // its conversation was computed with another form of attention
  std::optional<DoneContents> done;  // set: answered in full; it has views of the choices
  bool unlogged = false;             // answered in full, and told so once its turn is logged

  uint64_t last_notice = 0;  // that its client has heard

  std::vector<AnswerChoice> choices;  // at least one
  std::vector<Delta> deltas;          // delivered so far
  std::optional<Replay> replay;       // set: the client is given deltas again; new ones wait
  uint64_t finished_as = 0;           // place in the order of finishing; 0: open
  bool open() const { return finished_as == 0; }
  int64_t bytes() const;
};

/// Requests in progress, and the answers given lately, so that an id sent again is answered again
/// and not run again.
///
/// Invariants: a name has one record. Finished answers are kept up to a number and a total
/// of bytes, oldest out first. Records do not move. Thread safety: one thread.
class RequestTable {
 public:
  RequestTable(int64_t kept_answers, int64_t kept_bytes)
      : kept_answers_(kept_answers), kept_bytes_(kept_bytes) {}

  /// A new open record that is to get so many answers; the name must be free.
  RequestRecord& Add(RequestName name, size_t choices);
  RequestRecord* Find(const RequestName& name);
  RequestRecord* FindOpen(uint64_t key);
  std::vector<RequestRecord*> OpenOf(const std::string& client);
  std::vector<RequestRecord*> AllOpen();
  std::vector<const RequestRecord*> AllOpen() const;

  /// Whether Finish will keep an open record.
  bool Keeps(const RequestRecord& record) const;
  /// Moves an open record among the kept answers, or drops it.
  void Finish(RequestRecord& record);
  void Drop(RequestRecord& record);
  /// Drops the answers that are kept for a client only while it is connected.
  void DropPassingAnswersOf(const std::string& client);

  int64_t open() const { return static_cast<int64_t>(open_.size()); }
  /// Answers that open requests are to get.
  int64_t open_answers() const { return open_answers_; }
  int64_t OpenAnswersOf(const std::string& client) const;

 private:
  void Close(const RequestRecord& record);

  const int64_t kept_answers_;
  const int64_t kept_bytes_;
  std::map<RequestName, std::unique_ptr<RequestRecord>> records_;
  std::unordered_map<uint64_t, RequestRecord*> open_;  // by key
  std::unordered_map<std::string, int64_t> open_answers_of_client_;
  int64_t open_answers_ = 0;
  std::map<uint64_t, RequestRecord*> finished_;  // by RequestRecord::finished_as
  int64_t finished_bytes_ = 0;
  uint64_t next_key_ = 1;
  uint64_t next_finished_ = 1;
};

}  // namespace tandem::frontend
