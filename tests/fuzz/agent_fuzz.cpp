#include <cstdlib>

#include "kv_store/agent_codec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tandem::kv_store;
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  static_cast<void>(CallOfFrame(bytes));
  const auto frame = DecodeAgentFrame(bytes);
  if (!frame.ok()) return 0;
  // A status of code OK loses its text; everything else must come back as it was.
  const auto again = DecodeAgentFrame(EncodeAgentFrame(*frame));
  if (!again.ok() || EncodeAgentFrame(*again) != EncodeAgentFrame(*frame)) std::abort();
  return 0;
}
