#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "frontend/chat/chat_prompt.h"
#include "frontend/chat/generation.h"
#include "frontend/chat/text_model.h"
#include "frontend/protocol/error_code.h"

/// What a client asks for, as the ZeroMQ protocol's requests say it.
namespace tandem::frontend {

struct ProtocolLimits {
  int64_t frame_bytes = int64_t{1} << 20;
  int depth = 32;      // of JSON nesting
  int id_bytes = 256;  // of a request's id
  int stop_strings = 64;
  int stop_bytes = 4096;  // of one stop string
  int stop_tokens = 4096;
  int logit_biases = 4096;
  int samples = 16;                 // of one prompt
  int logprobs = 20;                // of a token
  int priority = 100;               // and as much below zero
  int tenant_bytes = 256;           // of a tenant's name
  int conversation_bytes = 256;     // of a conversation's name
  int listed_conversations = 1000;  // in one answer
  int template_variables = 64;      // of chat_template_kwargs
  int template_bytes = 64 << 10;    // of all of it
};

/// Input and sampling of `chat` and `complete`.
struct GenerateRequest {
  /// Messages of a chat, or raw text, or token ids.
  std::variant<std::vector<ChatMessage>, std::string, std::vector<int32_t>> input;
  GenerationParams params;
  std::optional<double> deadline_seconds;  // from arrival
  int32_t samples = 1;                     // `n`
  bool echo = false;                       // the answer begins with the prompt; of `complete`
  int32_t batch = 1;                       // prompts that are answered together, this one too
  std::string tenant;                      // empty: the one of all who name none
  /// The messages go on from those of this conversation; of `chat`.
  std::optional<std::string> conversation;
  bool accept_damage = false;  // the conversation goes on with what is kept of it; of `chat`
  std::optional<ContextPolicy> context_policy;  // none: the server's own; of `chat`
  RenderOptions render;                         // of `chat`
};
struct CancelRequest {};
/// Goes on with the answer to an earlier request of this connection identity.
struct ResumeRequest {
  std::optional<int64_t> last_seq;  // of the deltas that arrived; none: all are sent again
};
struct ConversationListRequest {
  std::string tenant;
  std::string after;  // the last one that was told before
  int64_t limit = 0;
};
struct ConversationGetRequest {
  std::string tenant;
  std::string conversation;
  int64_t from = 0;  // index of the first message to be told
};
struct ConversationDeleteRequest {
  std::string tenant;
  std::string conversation;
};
struct ConversationForkRequest {
  std::string tenant;
  std::string conversation;
  std::string to;
};
struct PingRequest {};
struct StatusRequest {};
struct ScaleRequest {
  int32_t ranks = 1;
};

/// Fields of a request that nobody knows.
struct UnknownFields {
  static constexpr size_t kNames = 100;     // that are kept
  static constexpr size_t kNameBytes = 64;  // of each

  uint64_t count = 0;
  std::vector<std::string> names;  // printable ASCII, without ends that are too long
};

struct Request {
  std::string id;            // empty where a ping, status or conversation.* had none
  uint64_t fingerprint = 0;  // equal for equal requests; tells a repeat from a reused id
  UnknownFields unknown_fields = {};
  std::variant<GenerateRequest, CancelRequest, ResumeRequest, PingRequest, StatusRequest,
               ScaleRequest, ConversationListRequest, ConversationGetRequest,
               ConversationDeleteRequest, ConversationForkRequest>
      body;
};

/// Why a frame was refused. `id` is the request's, empty where it had none that could be read.
struct RequestError {
  std::string id;
  ErrorCode code = ErrorCode::kInvalidArgument;
  std::string message;
};

}  // namespace tandem::frontend
