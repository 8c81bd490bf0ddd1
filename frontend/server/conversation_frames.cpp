#include <algorithm>
#include <nlohmann/json.hpp>

#include "frontend/protocol/frame_json.h"
#include "frontend/protocol/json_document.h"
#include "frontend/server/answer_frames.h"

namespace tandem::frontend {
namespace {

using Json = nlohmann::ordered_json;

void Describe(const Conversation& conversation, Json& out) {
  out["message_count"] = conversation.messages.size();
  out["tokens"] = conversation.history.tokens.size();
  out["bytes"] = conversation.bytes();
  out["answering"] = !conversation.answering.empty();
  if (conversation.damaged) out["damaged"] = {{"kept_messages", conversation.messages.size()}};
}

/// About the bytes of a message in JSON.
int64_t FrameBytes(const ChatMessage& message) {
  constexpr int64_t kAround = 32;  // its braces and names
  constexpr int64_t kEscape = 5;   // more than the character itself, at most
  const auto escaped = std::count_if(message.content.begin(), message.content.end(), [](char c) {
    return static_cast<unsigned char>(c) < ' ' || c == '"' || c == '\\';
  });
  return kAround + static_cast<int64_t>(message.role.size() + message.content.size()) +
         kEscape * escaped;
}

}  // namespace

std::string ConversationListFrame(std::string_view id, const Conversations::Page& page) {
  Json frame = FrameHead(id, "conversation.list");
  frame["conversations"] = Json::array();
  for (const auto& [name, conversation] : page.conversations) {
    Json entry = {{"conversation", name}};
    Describe(*conversation, entry);
    frame["conversations"].push_back(std::move(entry));
  }
  frame["more"] = page.more;
  return DumpJson(frame);
}

std::string ConversationFrame(std::string_view id, const std::string& name,
                              const Conversation& conversation, size_t from, int64_t bytes) {
  Json frame = FrameHead(id, "conversation.get");
  frame["conversation"] = name;
  Describe(conversation, frame);
  Json& messages = frame["messages"] = Json::array();
  size_t next = from;
  for (; next < conversation.messages.size() && (bytes > 0 || messages.empty()); ++next) {
    const ChatMessage& message = conversation.messages[next];
    bytes -= FrameBytes(message);
    messages.push_back({{"role", message.role}, {"content", message.content}});
  }
  if (next < conversation.messages.size()) frame["next"] = next;
  return DumpJson(frame);
}

std::string ConversationDeletedFrame(std::string_view id, const std::string& name) {
  Json frame = FrameHead(id, "conversation.delete");
  frame["conversation"] = name;
  return DumpJson(frame);
}

std::string ConversationForkedFrame(std::string_view id, const std::string& name,
                                    const std::string& to) {
  Json frame = FrameHead(id, "conversation.fork");
  frame["conversation"] = name;
  frame["to"] = to;
  return DumpJson(frame);
}

}  // namespace tandem::frontend
