#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
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

/// An engine in another process, behind its EngineServer.
///
/// When the link breaks, all open requests end with kUnavailable. The link does not know why it
/// broke, so they wait up to `reason_wait` for the reason: from the server (LinkDead) or from a
/// supervisor (MarkDead). A server that is silent is dead, and is itself the reason for what comes
/// of it, whatever a supervisor says. Sinks are called from one thread of the link. Thread safety:
/// as Engine.
class RemoteEngine final : public Engine {
 public:
  struct Options {
    std::string endpoint;
    std::string who = "the engine's process";  // is there, as errors call it
    uint64_t epoch = 0;                        // of the rank job; another one's is refused
    /// Called once, by the link's thread, when the engine is gone or says that it dies, perhaps
    /// before the reason is known. May be empty.
    std::function<void()> on_gone = nullptr;
    std::string server_key;    // public
    kv_store::CurveKeys keys;  // the client's
    kv_store::SocketLimits limits;
    std::chrono::milliseconds reason_wait{4000};
    std::chrono::milliseconds answer_patience{10000};  // for an answer to Submit or Status
  };

  /// Waits until the server answers, however long its model takes to load, asking `keep_waiting`
  /// every 50 ms; its error ends the wait and is returned.
  static absl::StatusOr<std::unique_ptr<RemoteEngine>> Connect(
      Options options, const std::function<absl::Status()>& keep_waiting);
  /// Open requests end with kUnavailable; the server hears nothing but the silence.
  ~RemoteEngine() override;

  absl::StatusOr<RequestId> Submit(EngineRequest request, EngineSink sink) override;
  void Cancel(RequestId id) override;
  absl::StatusOr<EngineStatus> Status() override;
  absl::Status Health() override;

  /// Says why the engine died, naming rank and host. The first reason sticks.
  void MarkDead(const absl::Status& why);

  /// Asks the server's process to end in good order (EngineServer::Wait returns OK there).
  void RequestStop();

 private:
  struct Request {
    EngineSink sink;
    bool answered ABSL_GUARDED_BY(&RemoteEngine::mutex_) = false;  // accepted or refused
    absl::Status refused ABSL_GUARDED_BY(&RemoteEngine::mutex_);
  };
  struct Query {
    std::optional<absl::StatusOr<EngineStatus>> answer ABSL_GUARDED_BY(&RemoteEngine::mutex_);
  };

  explicit RemoteEngine(Options options);

  absl::Status Handshake(const std::function<absl::Status()>& keep_waiting);
  void Run();
  void PollOnce();
  void SendQueued();
  void Receive(int most_frames);
  void Handle(LinkMessage message);
  std::shared_ptr<Request> Find(RequestId id);
  void MaybeDie();
  void TellGone();
  void FinishAll(const absl::Status& why);
  void Queue(const LinkMessage& message);

  const Options options_;
  kv_store::WakeUp wake_;

  // Used by the thread alone, once it runs.
  zmq::context_t context_;
  zmq::socket_t dealer_;
  std::unique_ptr<kv_store::DisconnectMonitor> monitor_;
  kv_store::Liveness server_;
  std::optional<std::chrono::steady_clock::time_point> broken_since_;
  bool told_gone_ = false;

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::vector<std::byte>> outgoing_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<RequestId, std::shared_ptr<Request>> requests_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<uint64_t, std::shared_ptr<Query>> queries_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;  // the link; health_ follows
  absl::Status reason_ ABSL_GUARDED_BY(mutex_);  // given by who knows more
  absl::Status health_ ABSL_GUARDED_BY(mutex_);
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread thread_;
};

}  // namespace tandem::parallel
