#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>
#include <variant>

#include "frontend/protocol/protocol.h"
#include "frontend/server/answer_frames.h"

/// Any frame is parsed, within its limits, or refused with an answer that is valid JSON.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tandem::frontend;
  const std::string_view frame(reinterpret_cast<const char*>(data), size);
  const auto parsed = ParseRequest(frame, {});
  const auto* error = std::get_if<RequestError>(&parsed);
  if (error == nullptr) {
    const auto* generate = std::get_if<GenerateRequest>(&std::get<Request>(parsed).body);
    if (generate == nullptr) return 0;
    const ProtocolLimits limits;
    const bool within = generate->samples >= 1 && generate->samples <= limits.samples &&
                        generate->params.logprobs.value_or(0) <= limits.logprobs &&
                        generate->tenant.size() <= static_cast<size_t>(limits.tenant_bytes) &&
                        generate->conversation.value_or("").size() <=
                            static_cast<size_t>(limits.conversation_bytes);
    if (!within) std::abort();
    return 0;
  }
  const std::string answer = ErrorFrame(error->id, error->code, error->message);
  if (error->message.empty() || !nlohmann::json::accept(answer)) std::abort();
  return 0;
}
