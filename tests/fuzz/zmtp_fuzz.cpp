#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <variant>

#include "frontend/server/zmtp.h"

/// Any bytes of a client end in events, and no frame is kept beyond the limit. The first byte says
/// how many of the others come at once, and whether they come after a client's handshake.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tandem::frontend;
  if (size == 0) return 0;
  constexpr uint64_t kLimit = 100;
  std::string bytes;
  if (data[0] % 2 == 0) {
    // What a ROUTER says is what a client may say, too.
    bytes = ZmtpGreeting() + ZmtpReady();
  }
  bytes.append(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t piece = 1 + data[0] / 2;
  ZmtpReader reader(kLimit);
  for (size_t at = 0; at < bytes.size(); at += piece) {
    reader.Append(std::string_view(bytes).substr(at, piece));
    for (;;) {
      const ZmtpReader::Event event = reader.Next();
      if (std::holds_alternative<ZmtpReader::NeedsBytes>(event)) break;
      if (std::holds_alternative<ZmtpReader::Broken>(event)) return 0;
      const auto* message = std::get_if<ZmtpReader::Message>(&event);
      if (message != nullptr && message->frame.size() > kLimit) std::abort();
    }
  }
  return 0;
}
