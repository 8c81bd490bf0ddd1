#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "core/base/status.h"
#include "frontend/protocol/request.h"
#include "frontend/server/frame_answer.h"
#include "frontend/server/router.h"
#include "frontend/service/service.h"

namespace tandem::frontend {

struct ServerOptions {
  std::string endpoint = "tcp://127.0.0.1:5555";
  std::shared_ptr<Listener> listener = nullptr;  // what listens there already; null: nothing does
  ProtocolLimits limits;
  int64_t clients = 256;                           // connections at once
  int64_t client_budget_bytes = int64_t{4} << 20;  // waiting for one client that reads slowly
  int64_t further_descriptors = 0;  // file descriptors that others of this process will open
};

/// Serves the ZeroMQ protocol, version 1: makes requests to the service of frames, and frames of
/// its answers.
///
/// One thread, the one in Run, owns the sockets, and is the service's. Whatever a client sends or
/// fails to read, it affects that client only. Thread safety: Run from one thread.
class Server {
 public:
  /// File descriptors that a server opens while it runs, beside those of its clients.
  static int64_t OtherDescriptors(bool has_log);
  /// File descriptors without which there is no place for a client. has_log: a log writes files.
  static int64_t LeastDescriptors(bool has_log);

  /// Listens from now on; clients are answered once Run is called. The service must outlive the
  /// server. Errors: Router::Bind; kFailedPrecondition for too few file descriptors.
  static absl::StatusOr<std::unique_ptr<Server>> Create(ServerOptions options, Service& service);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// Where clients connect, with the port that was picked for tcp://...:*.
  const std::string& endpoint() const { return router_->endpoint(); }

  /// How many connections it has at once, those included that are told that there is no place.
  int64_t connections() const { return connections_; }

  /// Serves until the service has ended, and says how (Service::End).
  absl::Status Run();

 private:
  /// Who sent a frame: a client by its connection identity, and the id that it gave its request;
  /// empty: it gave none.
  struct Sender {
    std::string client;
    std::string id;
  };

  Server(ServerOptions options, std::unique_ptr<Router> router, Service& service);

  void TakeFromClients();
  /// Tells the service of clients that are gone.
  void TellGone();
  void Handle(const Router::Incoming& incoming);
  void Handle(const Sender& sender, const ConversationListRequest& request);
  void Handle(const Sender& sender, const ConversationGetRequest& request);
  void Handle(const Sender& sender, const ConversationDeleteRequest& request);
  void Handle(const Sender& sender, const ConversationForkRequest& request);
  void HandleStatus(const Sender& sender);
  void HandleScale(const Sender& sender, const ScaleRequest& request);
  std::shared_ptr<AnswerEvents> AnswerTo(const Sender& sender, FrameAnswer::Form form = {});
  /// What sends the frame once a command has succeeded, and an error if it fails.
  Service::CommandAnswer FrameIfDone(const Sender& sender, std::string frame);
  void Refuse(const Sender& sender, ErrorCode code, std::string_view message);
  void SendError(const Sender& sender, const absl::Status& status);

  const ServerOptions options_;
  const std::unique_ptr<Router> router_;
  Service& service_;
  int64_t connections_ = 0;
};

}  // namespace tandem::frontend
