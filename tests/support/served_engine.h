#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "frontend/server/server.h"
#include "frontend/service/service.h"
#include "tests/support/fake_engine.h"
#include "tests/support/fake_text_model.h"

namespace tandem::testing {

/// What the served engine answers to the last user message (or raw text) Q: "You said: Q", and to
/// one that begins with "endless" an answer without end.
std::vector<int32_t> EchoScript(const std::vector<int32_t>& prompt);

struct ServedOptions : frontend::ServerOptions, frontend::ServiceOptions {};

/// A server over a fake engine, on a free port, running in a thread.
struct ServedEngine {
  explicit ServedEngine(ServedOptions options = {},
                        std::chrono::microseconds step = std::chrono::microseconds(200),
                        int context = 4096, std::vector<std::string> chat_stop_strings = {},
                        frontend::ConversationLog* log = nullptr,
                        const std::function<void(frontend::Service&)>& before_run = nullptr);
  ~ServedEngine();

  const std::string& endpoint() const { return server->endpoint(); }
  /// Waits for Run to return.
  absl::Status Join();

  FakeTextModel model;
  FakeEngine engine;
  frontend::Service service;
  std::unique_ptr<frontend::Server> server;
  absl::Status result;
  std::thread thread;
};

/// Waits until the condition holds, for at most ten seconds; whether it does.
bool Eventually(const std::function<bool()>& condition);

}  // namespace tandem::testing
