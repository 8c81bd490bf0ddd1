#include "launcher/commands/told_client.h"

#include <chrono>
#include <cstdio>

#include "frontend/client/terminal_text.h"

namespace tandem::launcher {

absl::StatusOr<std::unique_ptr<frontend::Client>> ConnectTold(const std::string& endpoint) {
  frontend::ClientOptions options;
  options.endpoint = endpoint;
  options.on_silence = [endpoint, timeout = options.timeout] {
    const std::string text = fmt::format("tandem: no answer from {} yet; trying for {:.0f} s\n",
                                         frontend::TerminalText().Clean(endpoint),
                                         std::chrono::duration<double>(timeout).count());
    std::fputs(text.c_str(), stderr);
  };
  return frontend::Client::Connect(options);
}

}  // namespace tandem::launcher
