#include "launcher/served_state.h"

#include <spdlog/spdlog.h>

#include <chrono>
#include <optional>
#include <utility>

#include "frontend/conversation_writer.h"
#include "kv_store/sealed_box.h"
#include "launcher/host_kv.h"
#include "launcher/kv_agent.h"

namespace tandem::launcher {
namespace {

class OpenedState final : public ServedState {
 public:
  OpenedState(StateOptions options, std::unique_ptr<StateDirectory> directory,
              std::unique_ptr<kv_store::SealedBox> box)
      : options_(std::move(options)), directory_(std::move(directory)), box_(std::move(box)) {}

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
    options.erase_blocks = [this](std::span<const kv_store::BlockHash> blocks) {
      return EraseBlocks(blocks);
    };
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
  /// One thread calls, that of the writer that destroys.
  absl::Status EraseBlocks(std::span<const kv_store::BlockHash> blocks) {
    if (!kv_) {
      TANDEM_ASSIGN_OR_RETURN(kv_, HostKv::Open(options_, /*keeps_agent=*/false));
    }
    TANDEM_RETURN_IF_ERROR(EnsureAgent(options_));
    return kv_->tier().Erase(blocks);
  }

  const StateOptions options_;
  const std::unique_ptr<StateDirectory> directory_;
  const std::unique_ptr<kv_store::SealedBox> box_;
  frontend::FoundConversations found_;
  std::unique_ptr<HostKv> kv_;
  std::optional<frontend::ConversationWriter> writer_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ServedState>> ServedState::Open(const StateOptions& options,
                                                               const std::string& endpoint) {
  TANDEM_ASSIGN_OR_RETURN(auto box, OpenBox(options));
  TANDEM_ASSIGN_OR_RETURN(auto taken, StateDirectory::Take(options.directory, endpoint));
  auto state = std::make_unique<OpenedState>(options, std::move(taken), std::move(box));
  TANDEM_RETURN_IF_ERROR(state->ReadConversations());
  return state;
}

}  // namespace tandem::launcher
