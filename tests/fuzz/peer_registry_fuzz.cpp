#include <cstdlib>

#include "kv_store/peers/peer_registry.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tandem::kv_store;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto known = DecodePeer("host", text);
  if (!known.ok()) return 0;
  const auto again = DecodePeer("host", EncodePeer(*known));
  if (!again.ok() || again->peer != known->peer || again->met != known->met) std::abort();
  return 0;
}
