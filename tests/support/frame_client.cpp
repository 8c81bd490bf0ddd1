#include "tests/support/frame_client.h"

#include <gtest/gtest.h>

#include <utility>

namespace tandem::testing {

using Json = nlohmann::json;

FrameClient::FrameClient(const std::string& endpoint) : FrameClient(endpoint, Options{}) {}

FrameClient::FrameClient(const std::string& endpoint, const Options& options)
    : context_(1), socket_(context_, options.type) {
  socket_.set(zmq::sockopt::linger, 0);
  socket_.set(zmq::sockopt::rcvhwm, options.receive_queue);
  if (options.kernel_bytes > 0) socket_.set(zmq::sockopt::rcvbuf, options.kernel_bytes);
  if (!options.identity.empty()) socket_.set(zmq::sockopt::routing_id, options.identity);
  if (!options.reconnects) socket_.set(zmq::sockopt::reconnect_ivl, -1);
  socket_.connect(endpoint);
}

void FrameClient::SendRaw(const std::vector<std::string>& frames) {
  for (size_t i = 0; i < frames.size(); ++i) {
    socket_.send(zmq::buffer(frames[i]),
                 i + 1 < frames.size() ? zmq::send_flags::sndmore : zmq::send_flags::none);
  }
}

std::optional<Json> FrameClient::Receive(std::chrono::milliseconds timeout) {
  socket_.set(zmq::sockopt::rcvtimeo, static_cast<int>(timeout.count()));
  zmq::message_t message;
  if (!socket_.recv(message)) return std::nullopt;
  EXPECT_FALSE(message.more()) << "an answer has one frame";
  Json frame = Json::parse(message.to_string_view(), nullptr, false);
  EXPECT_TRUE(frame.is_object()) << message.to_string_view();
  EXPECT_EQ(frame["v"], 1);
  return frame;
}

std::vector<Json> FrameClient::ReceiveAnswer(const std::string& id) {
  std::vector<Json> frames = std::exchange(others_[id], {});
  const auto ended = [&] {
    return !frames.empty() && (frames.back()["type"] == "done" || frames.back()["type"] == "error");
  };
  while (!ended()) {
    std::optional<Json> frame = Receive();
    if (!frame) {
      ADD_FAILURE() << "no further frame for " << id << " after " << frames.size();
      frames.push_back({{"type", "timeout"}});
      return frames;
    }
    const std::string other = (*frame)["id"].is_string() ? (*frame)["id"].get<std::string>() : "";
    (other == id ? frames : others_[other]).push_back(*std::move(frame));
  }
  return frames;
}

Json ChatFrame(const std::string& id, const std::string& content) {
  return {{"v", 1},
          {"type", "chat"},
          {"id", id},
          {"messages", {{{"role", "user"}, {"content", content}}}}};
}

Json TurnFrame(const std::string& id, const std::string& content, const Json& more) {
  Json frame = ChatFrame(id, content);
  frame["conversation"] = "c1";
  if (!more.is_null()) frame.update(more);
  return frame;
}

std::string JoinedDeltas(const std::vector<Json>& frames) {
  std::string text;
  int seq = 0;
  for (const Json& frame : frames) {
    if (frame["type"] != "delta") continue;
    EXPECT_EQ(frame["seq"], seq++);
    text += frame["text"].get<std::string>();
  }
  return text;
}

}  // namespace tandem::testing
