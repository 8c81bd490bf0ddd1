#include "launcher/state/served_state.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>

#include "core/base/counted.h"
#include "frontend/conversations/conversation_writer.h"
#include "kv_store/agent_link/copy_keeper.h"
#include "kv_store/base/encrypted_box.h"
#include "kv_store/base/files.h"
#include "kv_store/journal/database_image.h"
#include "launcher/state/host_kv.h"
#include "launcher/state/kv_agent.h"
#include "launcher/state/state_recovery.h"

namespace tandem::launcher {
namespace {

constexpr auto kAgentPatience = std::chrono::seconds(5);
constexpr auto kAskAgain = std::chrono::milliseconds(50);

class OpenedState final : public ServedState {
 public:
  OpenedState(StateOptions options, RecoverChoice choice, std::unique_ptr<StateDirectory> directory,
              std::unique_ptr<kv_store::EncryptedBox> box)
      : options_(std::move(options)),
        choice_(std::move(choice)),
        directory_(std::move(directory)),
        box_(std::move(box)) {}

  /// Those that are there; none is made.
  absl::Status ReadConversations() {
    if (kv_store::DatabaseIsThere(folder_)) return OpenStore();
    without_trace_ = kv_store::Exists(directory_->path() + "/kv") && !kv_store::Exists(Witness());
    return absl::OkStatus();
  }

  absl::Status Settle() override {
    TANDEM_RETURN_IF_ERROR(OpenKv());
    if (kv_) {
      absl::Status settled = SettleWithCopies();
      const bool silent = absl::IsUnavailable(settled) || absl::IsDeadlineExceeded(settled);
      if (!settled.ok() && (!silent || NeedsCopies())) return settled;
      if (!settled.ok()) spdlog::warn("copies of conversations: {}", Message(settled));
    }
    if (!store_) TANDEM_RETURN_IF_ERROR(OpenStore());
    if (without_trace_ && store_->conversations() == 0) {
      found_.damage = fmt::format(
          "{}: there is KV, but no conversations: if there were any, they are lost", folder_);
      spdlog::warn("{}", found_.damage);
    }
    if (const std::string& aside = directory_->put_aside(); !aside.empty()) {
      found_.damage += (found_.damage.empty() ? "" : "; ") + aside;
    }
    frontend::ConversationWriter::Options options;
    options.directory = directory_->path();
    options.encrypted = box_ != nullptr;
    options.erase_blocks = [this](std::span<const kv_store::BlockHash> blocks) {
      return EraseBlocks(blocks);
    };
    if (kv_) {
      const kv_store::CopyKeeper keeper(store_->state(), Ask());
      options.erase_copies = [this, keeper, store = store_.get()](auto ranges) {
        TANDEM_RETURN_IF_ERROR(kv_->KeepRunning());
        return keeper.Erase(store->position(), ranges);
      };
      if (options_.durability > 1) options.keeper = keeper;
    }
    writer_.emplace(std::move(options), std::move(store_),
                    frontend::FoundConversations{.conversations = {},
                                                 .nameless = std::move(found_.nameless),
                                                 .unreadable = std::move(found_.unreadable),
                                                 .damage = found_.damage});
    return absl::OkStatus();
  }

  frontend::ConversationLog& log() override { return *writer_; }
  void RestoreTo(frontend::Service& service) override {
    for (auto& [name, conversation] : std::exchange(found_.conversations, {})) {
      service.Restore(name, std::move(conversation));
    }
  }
  StateDirectory& directory() override { return *directory_; }

 private:
  absl::Status OpenStore() {
    const auto begin = std::chrono::steady_clock::now();
    TANDEM_ASSIGN_OR_RETURN(
        auto opened,
        frontend::ConversationStore::Open(
            {.folder = folder_, .box = box_.get(), .hold = [this] { return directory_->Hold(); }}));
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    found_ = std::move(opened.found);
    store_ = std::move(opened.store);
    spdlog::info("state {}: {}, {} damaged, {} that cannot be read, in {:.2f} s",
                 directory_->path(),
                 Counted(static_cast<int64_t>(found_.conversations.size() + found_.nameless.size()),
                         "conversation"),
                 found_.damaged(), found_.unreadable.size(), seconds.count());
    return absl::OkStatus();
  }

  /// The agent of this host, without which there are no copies.
  absl::Status OpenKv() {
    auto kv = HostKv::Open(options_);
    if (kv.ok()) {
      kv_ = *std::move(kv);
      return absl::OkStatus();
    }
    if (NeedsCopies()) return Unavailable("copies of conversations: {}", Message(kv.status()));
    spdlog::warn("{}", Message(kv.status()));
    return absl::OkStatus();
  }

  /// Whether it is not enough to go on with what is here.
  bool NeedsCopies() const {
    return options_.durability > 1 || !options_.recover.empty() ||
           kv_store::Exists(AgentPath(options_) + "/conversations");
  }

  absl::Status SettleWithCopies() {
    if (store_) {
      const kv_store::CopyKeeper keeper(store_->state(), AskPatiently());
      if (!choice_.own) TANDEM_RETURN_IF_ERROR(TakeFromCopies(keeper, *store_, found_));
      TANDEM_ASSIGN_OR_RETURN(const bool another,
                              ChoseAnother(keeper, choice_, store_->position()));
      if (another) TANDEM_RETURN_IF_ERROR(PutAside());
    }
    bool adopted = false;
    if (!store_) {
      TANDEM_ASSIGN_OR_RETURN(const RecoverChoice choice, ChoiceWithoutStore());
      TANDEM_ASSIGN_OR_RETURN(adopted, AdoptCopy(AskPatiently(), choice, folder_));
      TANDEM_RETURN_IF_ERROR(OpenStore());
    }
    const bool overrule = choice_.own || (adopted && choice_.state);
    return CheckNobodyWentOn({store_->state(), AskPatiently()}, overrule, *store_);
  }

  absl::Status PutAside() {
    store_.reset();
    found_ = {};
    const std::string aside = kv_store::FreeName(folder_, "aside");
    TANDEM_RETURN_IF_ERROR(kv_store::Rename(folder_, aside));
    spdlog::warn("state {}: the conversations in it are kept in {}", directory_->path(), aside);
    if (!kv_store::Exists(Witness())) return absl::OkStatus();
    return kv_store::Rename(Witness(), aside + ".witness");
  }

  std::string Witness() const { return frontend::ConversationStore::WitnessPath(folder_); }

  /// Where conversations were lost, only a copy of the same ones stands for them.
  absl::StatusOr<RecoverChoice> ChoiceWithoutStore() {
    RecoverChoice choice = choice_;
    const auto state =
        frontend::ConversationStore::WitnessedState({.folder = folder_, .box = box_.get()});
    if (!choice.none() || !state) return choice;
    TANDEM_ASSIGN_OR_RETURN(const kv_store::AgentCopies found,
                            kv_store::CopyKeeper(*state, AskPatiently()).Find(/*patient=*/true));
    const bool there =
        std::any_of(found.copies.begin(), found.copies.end(),
                    [&](const kv_store::AgentCopyOn& on) { return on.copy.state == *state; });
    if (there) {
      choice.state = state;
    } else {
      choice.own = true;
    }
    return choice;
  }

  kv_store::CopyKeeper::Ask Ask() {
    return [this](kv_store::AgentMessage message, std::chrono::milliseconds patience) {
      return kv_->agent().Ask(std::move(message), patience);
    };
  }

  /// An agent that was just ending (that of another server, or of `tandem kv`) is followed by
  /// another.
  kv_store::CopyKeeper::Ask AskPatiently() {
    return [this](const kv_store::AgentMessage& message,
                  std::chrono::milliseconds patience) -> absl::StatusOr<kv_store::AgentMessage> {
      const auto end = std::chrono::steady_clock::now() + kAgentPatience;
      while (true) {
        auto answer = kv_->agent().Ask(message, patience);
        const auto* told = answer.ok() ? std::get_if<kv_store::AgentStatus>(&*answer) : nullptr;
        const bool away =
            absl::IsUnavailable(answer.status()) || (told && absl::IsUnavailable(told->status));
        if (!away || std::chrono::steady_clock::now() > end) return answer;
        std::this_thread::sleep_for(kAskAgain);
        TANDEM_RETURN_IF_ERROR(kv_->KeepRunning());
      }
    };
  }

  /// One thread calls, that of the writer that destroys.
  absl::Status EraseBlocks(std::span<const kv_store::BlockHash> blocks) {
    if (!kv_) {
      TANDEM_ASSIGN_OR_RETURN(kv_, HostKv::Open(options_));
    }
    TANDEM_RETURN_IF_ERROR(kv_->KeepRunning());
    return kv_->tier().Erase(blocks);
  }

  const StateOptions options_;
  const RecoverChoice choice_;
  const std::unique_ptr<StateDirectory> directory_;
  const std::unique_ptr<kv_store::EncryptedBox> box_;
  const std::string folder_ = directory_->path() + "/conversations";
  bool without_trace_ = false;  // of conversations, though a server was here before
  frontend::FoundConversations found_;
  std::unique_ptr<frontend::ConversationStore> store_;  // until the writer has it
  std::unique_ptr<HostKv> kv_;                          // null: no agent came up
  std::optional<frontend::ConversationWriter> writer_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ServedState>> ServedState::Open(const StateOptions& options,
                                                               const std::string& endpoint) {
  TANDEM_ASSIGN_OR_RETURN(RecoverChoice choice, ParseRecoverChoice(options.recover));
  TANDEM_ASSIGN_OR_RETURN(auto box, OpenBox(options));
  TANDEM_ASSIGN_OR_RETURN(auto taken, StateDirectory::Take(options.directory, endpoint));
  auto state =
      std::make_unique<OpenedState>(options, std::move(choice), std::move(taken), std::move(box));
  TANDEM_RETURN_IF_ERROR(state->ReadConversations());
  return state;
}

}  // namespace tandem::launcher
