#pragma once

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>
#include <zmq.hpp>

namespace tandem::testing {

/// A bare DEALER socket that speaks JSON frames: sees exactly what a server sends.
/// Thread safety: one thread.
class FrameClient {
 public:
  using Json = nlohmann::json;

  struct Options {
    std::string identity;  // empty: the server makes one up
    int receive_queue = 1000;
    int kernel_bytes = 0;  // of the receive buffer; 0 = the system's choice
    zmq::socket_type type = zmq::socket_type::dealer;
    bool reconnects = true;
  };
  explicit FrameClient(const std::string& endpoint);
  FrameClient(const std::string& endpoint, const Options& options);

  void Send(const Json& frame) { SendRaw({frame.dump()}); }
  void SendRaw(const std::vector<std::string>& frames);
  /// The next frame; nothing if none comes in time.
  std::optional<Json> Receive(std::chrono::milliseconds timeout = std::chrono::seconds(10));
  /// All frames up to the first "done" or "error" of this id, which is the last of them. Frames of
  /// other ids are kept for later calls.
  std::vector<Json> ReceiveAnswer(const std::string& id);
  /// Closes the connection at once, with nothing said.
  void Vanish() { socket_.close(); }

 private:
  zmq::context_t context_;
  zmq::socket_t socket_;
  std::map<std::string, std::vector<Json>> others_;
};

/// {"v":1,"type":"chat",...} with one user message.
nlohmann::json ChatFrame(const std::string& id, const std::string& content);

/// The same in the conversation "c1", with the fields of `more`.
nlohmann::json TurnFrame(const std::string& id, const std::string& content,
                         const nlohmann::json& more = {});

/// The texts of an answer's deltas, joined; their `seq` is checked to count from 0.
std::string JoinedDeltas(const std::vector<nlohmann::json>& frames);

}  // namespace tandem::testing
