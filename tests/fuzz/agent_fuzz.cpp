#include <algorithm>
#include <cstdlib>

#include "kv_store/agent_link/agent_codec.h"

namespace {

using namespace tandem::kv_store;

/// The input as a message: of each part but the last first its size, two bytes.
AgentParts PartsOf(std::span<const std::byte> bytes) {
  AgentParts parts;
  while (bytes.size() >= 2) {
    const auto wanted = std::to_integer<size_t>(bytes[0]) | std::to_integer<size_t>(bytes[1]) << 8;
    const size_t size = std::min(wanted, bytes.size() - 2);
    parts.emplace_back(bytes.subspan(2, size), nullptr);
    bytes = bytes.subspan(2 + size);
  }
  return parts;
}

}  // namespace

/// Messages to and from agents, of one part and of several.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  for (const AgentParts& parts : {AgentParts{SharedBytes(bytes, nullptr)}, PartsOf(bytes)}) {
    static_cast<void>(CallOfFrame(parts));
    const auto frame = DecodeAgentFrame(parts);
    if (!frame.ok()) continue;
    // A status of code OK loses its text; everything else must come back as it was.
    const auto again = DecodeAgentFrame(EncodeAgentFrame(*frame));
    if (!again.ok() || EncodeAgentFrame(*again) != EncodeAgentFrame(*frame)) std::abort();
  }
  return 0;
}
