#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "core/base/status.h"
#include "frontend/chat/text_model.h"
#include "frontend/conversations/conversation_log.h"
#include "frontend/conversations/conversations.h"
#include "frontend/protocol/request.h"
#include "frontend/server/answer_frames.h"
#include "frontend/server/engine_figures.h"
#include "frontend/server/mailbox.h"
#include "frontend/server/request_preparer.h"
#include "frontend/server/request_table.h"
#include "frontend/server/router.h"
#include "parallel/engine/engine.h"

namespace tandem::frontend {

struct ServerOptions {
  std::string endpoint = "tcp://127.0.0.1:5555";
  std::shared_ptr<Listener> listener = nullptr;  // what listens there already; null: nothing does
  ProtocolLimits limits;
  int64_t clients = 256;                           // connections at once
  int64_t client_budget_bytes = int64_t{4} << 20;  // waiting for one client that reads slowly
  int64_t open_requests = 1024;                    // answers in progress, of all clients
  int64_t open_requests_per_client = 64;
  int64_t kept_answers = 1024;  // finished, to answer a repeated id
  int64_t kept_answer_bytes = int64_t{32} << 20;
  ConversationLimits conversations;
  ContextPolicy context_policy;  // of chats that name none
  std::string attention;         // of the engine, as ChatHistory has it
  /// How long the requests of a client that is gone go on, for it to come back and resume them.
  std::chrono::milliseconds resume_grace{2000};
  /// Log-probabilities that one request may ask for in all, since they are sent with its end.
  int64_t logprobs = 200'000;
  RequestPreparerLimits preparer;
};

/// Serves the ZeroMQ protocol, version 1, over an engine.
///
/// One thread, the one in Run, owns the sockets and all requests, and never waits for the engine or
/// a tokenizer: other threads do, and hand over through a mailbox, as the engine's sinks do.
/// Whatever a client sends or fails to read, it affects that client only. Thread safety: Run from
/// one thread; Stop from any, and from a signal handler.
class Server {
 public:
  /// File descriptors without which there is no place for a client. has_log: a log writes files.
  static int64_t LeastDescriptors(bool has_log);

  /// Listens from now on; clients are answered once Run is called. Errors: Router::Bind. The engine
  /// and the model must outlive the server, and so must the log where there is one: then every turn
  /// goes there before its answer counts as done.
  static absl::StatusOr<std::unique_ptr<Server>> Create(ServerOptions options,
                                                        parallel::Engine& engine,
                                                        const TextModel& model,
                                                        ConversationLog* log = nullptr);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// Before Run: a conversation that outlived an earlier process.
  void Restore(const ConversationName& name, Conversation conversation);

  /// Where clients connect, with the port that was picked for tcp://...:*.
  const std::string& endpoint() const { return router_->endpoint(); }

  /// Serves until Stop (OK) or until the engine is dead (its status). Before returning, every open
  /// request is answered with `unavailable`.
  absl::Status Run();
  void Stop();

 private:
  using Clock = std::chrono::steady_clock;

  /// A command on a conversation that is answered once the log has it.
  struct Command {
    RequestName name;
    std::string frame;
  };

  /// A turn that was given up while the engine may still be saving KV of it.
  struct AbandonedTurn {
    std::string tenant;
    std::vector<int32_t> prompt;
    std::vector<std::vector<int32_t>> answers;  // [choices]
    /// Choices that the engine has not ended, and the preparation, where it may still submit them.
    size_t running = 0;
  };

  Server(ServerOptions options, std::unique_ptr<Router> router, parallel::Engine& engine,
         const TextModel& model, ConversationLog* log);

  absl::Status Serve();

  std::chrono::milliseconds UntilNextTimer() const;
  void TakeNews();
  /// Looks at them for a turn: there may be more than can be sent.
  void TakeFromMailbox();
  void Take(Mailbox::Event event);
  void TakeFromClients();
  /// Deadlines of requests, and of clients that may come back.
  void CheckTimers();
  void CheckEngine();
  /// What clients have cost goes back to the system: glibc keeps what is freed between what is not.
  void ReturnMemory();
  void CancelVanished();

  void Handle(const Router::Incoming& incoming);
  void HandleGenerate(const RequestName& name, Request request);
  void HandleCancel(const RequestName& name);
  void HandleResume(const RequestName& name, const ResumeRequest& resume);
  void HandleStatus(const RequestName& name);
  /// The engine's status has come.
  void TakeFigures(Mailbox::EngineAnswer answer);
  /// Answers the first that asked; `answers`: the engine does.
  void AnswerStatus(bool answers);
  /// The turn ends without an answer; what was computed for it is destroyed. `prepares`: it may
  /// still be submitted.
  void AbandonTurn(RequestRecord& record, bool prepares);
  /// News of a request that is gone: perhaps of a turn that was given up.
  void TakeAbandoned(const Mailbox::Event& event);
  /// It has lost one of those that it counts as running.
  void EndOneOf(std::map<uint64_t, AbandonedTurn>::iterator turn);
  void EraseKv(const AbandonedTurn& turn);
  /// Takes what is kept of a damaged conversation where its name tells which it is; then refuses
  /// what a newer program has written.
  absl::Status FindOnDisk(const ConversationName& name);
  /// Deletes it in memory; gives the blocks of its tokens that no other conversation shares.
  absl::StatusOr<std::vector<kv_store::BlockHash>> DeleteConversation(const ConversationName& name);
  void Handle(const RequestName& name, const ConversationListRequest& request);
  void Handle(const RequestName& name, const ConversationGetRequest& request);
  void Handle(const RequestName& name, const ConversationDeleteRequest& request);
  void Handle(const RequestName& name, const ConversationForkRequest& request);

  /// Hands a request to the preparer.
  absl::Status Start(RequestRecord& record, GenerateRequest request);
  /// Begins the turn of a conversation.
  absl::Status BeginTurn(RequestRecord& record, Preparation& preparation);
  /// The engine has taken a request, or it was refused.
  void TakePrepared(RequestRecord& record, Prepared prepared);
  /// Sends the answer so far again, from a delta on, and goes on from there. Of a long one the rest
  /// follows as its client reads.
  void Replay(RequestRecord& record, int64_t from_seq);
  /// The next deltas of a replay. False: that was all, or it ends.
  bool SendPart(RequestRecord& record);
  /// Goes on with replays for a turn.
  void ContinueReplays();
  /// What a replay sent did not reach its client.
  void EndReplay(RequestRecord& record, Router::Delivery why);

  void Take(RequestRecord& record, size_t choice, std::span<const int32_t> tokens);
  /// New text of an answer, with the log-probabilities of its tokens. `last`: also those of tokens
  /// that gave no text. False if the record is gone, because its client is.
  bool Deliver(RequestRecord& record, size_t choice, std::string_view text, bool last);
  void Finish(RequestRecord& record, size_t choice, const parallel::Finish& finish);
  /// All answers of a request are complete.
  void Complete(RequestRecord& record);
  void SendDone(RequestRecord& record, const DoneContents& done);
  /// The log has told of a turn, or of a command.
  void TakeLogged(RequestRecord& record, const absl::Status& status);
  void TakeCommand(uint64_t key, const absl::Status& status);
  /// What the log calls when it has done a command that is then answered with this frame.
  ConversationLog::Done AnswerWhenLogged(const RequestName& name, std::string frame);
  /// Whether answers or commands wait for the log.
  bool WaitsForLog();
  /// The turn of a conversation ends with this answer.
  void CommitTurn(RequestRecord& record, const AnswerChoice& choice);
  void CancelInEngine(RequestRecord& record);  // once it is there
  /// Drops an open request; its conversation is what it was before.
  void DropRequest(RequestRecord& record);
  /// Ends a request with an error frame and frees its id.
  void Fail(RequestRecord& record, ErrorCode code, std::string_view message);
  void FailAll(std::string_view message);
  /// A client is gone: its requests wait for it to come back, where it can, or are dropped.
  void Vanished(const std::string& client);
  /// Frees everything of a client that is gone for good.
  void DropClient(const std::string& client);
  void SetTimer(Clock::time_point at);
  void CancelSlow(const std::string& client);
  /// Counts fields that nobody knows, and tells each name once in the log, for the first ones.
  void TellUnknown(const UnknownFields& fields);
  void Refuse(const RequestName& name, ErrorCode code, std::string_view message);
  void Refuse(const RequestName& name, const absl::Status& status);
  void EndSoon(absl::Status status);

  const ServerOptions options_;
  const std::unique_ptr<Router> router_;
  parallel::Engine& engine_;
  const TextModel& model_;
  ConversationLog* const log_;  // null: conversations end with the process
  const std::shared_ptr<Mailbox> mailbox_ = std::make_shared<Mailbox>();
  std::atomic<bool> stop_{false};

  /// Set by Run: what waits for the engine in its place.
  std::optional<RequestPreparer> preparer_;
  std::optional<EngineFigures> figures_;

  RequestTable requests_;
  /// Events of requests that came before it was known that the engine has them; by key.
  std::deque<Mailbox::Event> news_;  // of the mailbox, not looked at yet
  std::map<uint64_t, std::vector<Mailbox::Event>> early_;
  std::deque<RequestName> replays_;  // requests that have one, in turn
  bool replays_are_late_ = false;    // their turn was too short
  Conversations conversations_;
  std::map<uint64_t, AbandonedTurn> abandoned_;  // by the request's key; none without a log
  std::map<uint64_t, Command> commands_;         // that wait for the log
  uint64_t next_command_ = 1;
  ServerStatus counts_;
  std::set<std::string> told_fields_;  // that nobody knows

  struct StatusQuestion {
    RequestName name;
    uint64_t number = 0;  // of the engine's answer that will do
    Clock::time_point until;
  };
  std::deque<StatusQuestion> status_questions_;  // in the order of arrival
  parallel::EngineStatus engine_status_;         // the last one
  Clock::time_point engine_status_at_ = Clock::now();

  const Clock::time_point started_ = Clock::now();
  Clock::time_point next_engine_check_ = Clock::now();
  std::optional<Clock::time_point> used_since_;  // memory went back
  std::optional<Clock::time_point> next_timer_;  // of all open requests
  std::optional<Clock::time_point> ends_at_;     // set: answering what is still coming in, then end
  absl::Status ends_with_;
};

}  // namespace tandem::frontend
