#pragma once

#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "core/base/mutex.h"
#include "kv_store/base/zmq_tools.h"
#include "parallel/engine/engine.h"
#include "parallel/engine/engine_link_codec.h"
#include "parallel/engine/engine_link_keys.h"

namespace tandem::parallel {

/// Lets one process outside the rank job (a RemoteEngine in the gateway) use an engine of this one.
///
/// A thread owns the socket. When the client goes away, its requests are cancelled. A request whose
/// results pile up unread beyond `most_unsent` is cancelled and failed, never waited for.
/// Thread safety: all methods; destroy it before the engine.
class EngineServer {
 public:
  struct Options {
    EngineServerAddress address;
    uint64_t epoch = 0;  // of the rank job
    kv_store::SocketLimits limits{.queued_messages = 256};
    size_t most_unsent = size_t{256} << 20;  // bytes
  };

  /// kUnavailable if the endpoint cannot be bound.
  static absl::StatusOr<std::unique_ptr<EngineServer>> Create(Options options, Engine& engine);
  ~EngineServer();

  /// As bound: with the port's number.
  const std::string& endpoint() const { return endpoint_; }

  /// Sleeps until the client wants the engine to end (OK), the client is gone (kUnavailable), or
  /// the engine is dead and the client was told (its health).
  absl::Status Wait();

 private:
  class Outbox;

  EngineServer(Options options, Engine& engine);

  void Run();
  void PollOnce();
  void Receive();
  void Handle(LinkMessage message);
  void Submit(LinkSubmit message);
  void Reply(const LinkMessage& message);
  void EndOverflown();
  void Flush();
  void FlushAll();
  void CheckEngine();
  void ClientGone();
  void End(const absl::Status& why);

  const Options options_;
  Engine& engine_;
  std::shared_ptr<Outbox> outbox_;  // shared with the sinks, which may outlive the server

  // Used by the thread alone, once it runs.
  zmq::context_t context_;
  kv_store::AllowList allowed_;
  zmq::socket_t router_;
  std::unique_ptr<kv_store::DisconnectMonitor> monitor_;
  std::string endpoint_;
  std::string client_;                          // routing id of the client, empty without one
  std::deque<std::vector<std::byte>> replies_;  // go before what is in the outbox
  std::unordered_map<RequestId, RequestId> engine_ids_;  // client's number -> engine's
  kv_store::Liveness liveness_;                          // for when to ping
  bool client_is_full_ = false;                          // it has not read what was sent
  bool told_dead_ = false;

  Mutex mutex_;
  CondVar changed_;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status end_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace tandem::parallel
