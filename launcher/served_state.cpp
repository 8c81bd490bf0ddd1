#include "launcher/served_state.h"

#include <spdlog/spdlog.h>

#include <chrono>
#include <optional>
#include <utility>

#include "frontend/conversation_writer.h"
#include "kv_store/sealed_box.h"

namespace tandem::launcher {
namespace {

class OpenedState final : public ServedState {
 public:
  OpenedState(std::unique_ptr<StateDirectory> directory, std::unique_ptr<kv_store::SealedBox> box)
      : directory_(std::move(directory)), box_(std::move(box)) {}

  absl::Status ReadConversations() {
    const auto begin = std::chrono::steady_clock::now();
    TANDEM_ASSIGN_OR_RETURN(
        auto opened, frontend::ConversationStore::Open(
                         {.folder = directory_->path() + "/conversations", .box = box_.get()}));
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    found_ = std::move(opened.found);
    spdlog::info("state {}: {} conversations, {} that cannot be read, in {:.2f} s",
                 directory_->path(), found_.conversations.size(), found_.unreadable.size(),
                 seconds.count());
    frontend::ConversationWriter::Options options;
    options.directory = directory_->path();
    options.encrypted = box_ != nullptr;
    writer_.emplace(std::move(options), std::move(opened.store), std::move(found_.unreadable));
    return absl::OkStatus();
  }

  frontend::ConversationLog& log() override { return *writer_; }
  void RestoreTo(frontend::Server& server) override {
    for (auto& [name, conversation] : std::exchange(found_.conversations, {})) {
      server.Restore(name, std::move(conversation));
    }
  }
  StateDirectory& directory() override { return *directory_; }

 private:
  const std::unique_ptr<StateDirectory> directory_;
  const std::unique_ptr<kv_store::SealedBox> box_;
  frontend::FoundConversations found_;
  std::optional<frontend::ConversationWriter> writer_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ServedState>> ServedState::Open(const std::string& directory,
                                                               const std::string& key_file,
                                                               const std::string& endpoint) {
  std::unique_ptr<kv_store::SealedBox> box;
  if (!key_file.empty()) {
    const auto key = kv_store::ReadStateKey(key_file);
    if (!key.ok()) return InvalidArgument("--state-key: {}", Message(key.status()));
    box = std::make_unique<kv_store::SealedBox>(*key);
  }
  TANDEM_ASSIGN_OR_RETURN(auto taken, StateDirectory::Take(directory, endpoint));
  auto state = std::make_unique<OpenedState>(std::move(taken), std::move(box));
  TANDEM_RETURN_IF_ERROR(state->ReadConversations());
  return state;
}

}  // namespace tandem::launcher
