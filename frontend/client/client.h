#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>
#include <zmq.hpp>

#include "core/base/status.h"
#include "frontend/chat/generation.h"
#include "frontend/chat/text_model.h"

namespace tandem::frontend {

struct ClientOptions {
  std::string endpoint = "tcp://127.0.0.1:5555";
  /// How long a server may take to answer at all. While an answer is being computed the server is
  /// asked now and then whether it is alive, so this does not limit the answer.
  std::chrono::milliseconds timeout{10000};
  /// Called once if the first answer takes noticeably long (0.3 s); may be empty.
  std::function<void()> on_silence = nullptr;
  /// Why an answer pauses, as the server says it; may be empty.
  std::function<void(const std::string& text)> on_notice = nullptr;
};

/// Where a chat belongs. Empty fields: a chat of its own, the nameless tenant, the server's policy.
struct ChatPlace {
  std::string conversation;
  std::string tenant;
  std::string context_policy;
  bool accept_damage = false;  // of the conversation: it goes on with what is kept
};

/// A client of the ZeroMQ protocol, version 1.
///
/// Thread safety: one thread, except Interrupt.
class Client {
 public:
  /// Connects and waits for the server's first sign of life. kInvalidArgument (no endpoint),
  /// kUnavailable (nobody answers there), kPermissionDenied (a socket of another user),
  /// kFailedPrecondition (too few file descriptors).
  static absl::StatusOr<std::unique_ptr<Client>> Connect(const ClientOptions& options);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  using OnText = std::function<void(std::string_view text)>;

  /// Asks for an answer and waits for it; `on_text` gets its text piece by piece. An interrupted
  /// answer comes back with its text so far and the reason kCancelled. Errors: the server's own,
  /// with its code; kUnavailable if the connection is lost.
  absl::StatusOr<Answer> Chat(const std::vector<ChatMessage>& messages,
                              const GenerationParams& params, const OnText& on_text,
                              const ChatPlace& place = {});
  /// The same for raw text or token ids.
  absl::StatusOr<Answer> Complete(const std::variant<std::string, std::vector<int32_t>>& prompt,
                                  const GenerationParams& params, const OnText& on_text);

  /// True if the server is there and can answer.
  absl::StatusOr<bool> Ping();
  /// The server's answer to a `conversation.` command: "list", "get", "delete" or "fork", with the
  /// fields that it takes (docs/protocol.md).
  absl::StatusOr<nlohmann::json> ConversationCommand(std::string_view command,
                                                     const nlohmann::json& fields);
  /// Changes the number of the server's ranks; its answer, which has `ranks`, `epoch`, `seconds`.
  absl::StatusOr<nlohmann::json> Scale(int ranks);
  /// The server's status document.
  absl::StatusOr<nlohmann::json> ServerStatus();

  /// Ends the answer that is being waited for, or does nothing. From any thread and from signal
  /// handlers.
  void Interrupt();

 private:
  Client(const ClientOptions& options, std::unique_ptr<zmq::context_t> context,
         zmq::socket_t socket, zmq::socket_t monitor, int interrupt_fd);

  std::string NewId();
  absl::Status Send(const nlohmann::json& frame);
  /// The next frame with this id. Nothing if interrupted before (only where `interruptible`).
  absl::StatusOr<std::optional<nlohmann::json>> Receive(const std::string& id, bool interruptible);
  absl::StatusOr<nlohmann::json> Ask(nlohmann::json request, std::string_view answer_type);
  absl::StatusOr<Answer> WaitForAnswer(nlohmann::json request, const GenerationParams& params,
                                       const OnText& on_text);
  bool TakeInterrupt();
  /// Reads what the monitor has seen; true if the connection was lost since the last call.
  bool TakeDisconnect();

  const ClientOptions options_;
  bool heard_ = false;                       // ever, or told that it was not
  std::unique_ptr<zmq::context_t> context_;  // outlives the sockets
  zmq::socket_t socket_;
  zmq::socket_t monitor_;
  const int interrupt_fd_;
  bool disconnected_ = false;  // was connected, and is not now
  uint64_t next_id_ = 1;
};

}  // namespace tandem::frontend
