#include "tests/support/served_engine.h"

#include <gtest/gtest.h>

#include <chrono>

namespace tandem::testing {

std::vector<int32_t> EchoScript(const std::vector<int32_t>& prompt) {
  std::string text;
  for (const int32_t token : prompt) text.push_back(static_cast<char>(token));
  if (const size_t user = text.rfind("user:"); user != std::string::npos) {
    text = text.substr(user + 5, text.rfind('\n') - user - 5);
  }
  if (text.starts_with("endless")) return ByteTokens("over and over ");
  std::vector<int32_t> answer = ByteTokens("You said: " + text);
  answer.push_back(FakeTextModel::kEnd);
  return answer;
}

ServedEngine::ServedEngine(ServedOptions options, std::chrono::microseconds step, int context,
                           std::vector<std::string> chat_stop_strings,
                           frontend::ConversationLog* log,
                           const std::function<void(frontend::Service&)>& before_run)
    : model(context, std::move(chat_stop_strings)),
      engine(EchoScript, step),
      service(options, engine, model, log) {
  if (options.endpoint == frontend::ServerOptions{}.endpoint) {
    options.endpoint = "tcp://127.0.0.1:*";
  }
  auto created = frontend::Server::Create(options, service);
  if (!created.ok()) {
    ADD_FAILURE() << created.status();
    std::abort();
  }
  server = *std::move(created);
  if (before_run) before_run(service);
  thread = std::thread([this] { result = server->Run(); });
}

ServedEngine::~ServedEngine() {
  if (thread.joinable()) {
    service.Stop();
    thread.join();
  }
}

absl::Status ServedEngine::Join() {
  thread.join();
  return result;
}

bool Eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

}  // namespace tandem::testing
