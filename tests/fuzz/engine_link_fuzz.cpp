#include <cstdlib>

#include "parallel/engine/engine_link_codec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tandem::parallel;
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  const auto message = DecodeLinkMessage(bytes);
  if (!message.ok()) return 0;
  // A status of code OK loses its text; everything else must come back as it was.
  const auto again = DecodeLinkMessage(EncodeLinkMessage(*message));
  if (!again.ok() || EncodeLinkMessage(*again) != EncodeLinkMessage(*message)) std::abort();
  return 0;
}
