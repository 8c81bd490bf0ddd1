#include "launcher/kv/kv_access.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <set>
#include <thread>

#include "core/base/descriptor_limit.h"
#include "fmt/ranges.h"
#include "kv_store/agent_link/agent_tier.h"
#include "kv_store/base/files.h"
#include "kv_store/records/record.h"
#include "kv_store/tiers/disk_tier.h"
#include "kv_store/tiers/tiered_store.h"
#include "launcher/state/host_kv.h"
#include "launcher/state/kv_agent.h"
#include "launcher/state/state_directory.h"

namespace tandem::launcher {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

// An agent that is just beginning or ending is waited for.
constexpr auto kReachTime = std::chrono::seconds(10);
constexpr auto kPollInterval = milliseconds(20);
// Ranks wait for an answer; commands have time.
constexpr auto kDeadline = std::chrono::seconds(60);
constexpr auto kLongDeadline = std::chrono::minutes(30);
constexpr int64_t kHostBytes = int64_t{64} << 20;
constexpr size_t kKeyTries = 16;
constexpr int64_t kDescriptors = 48;  // of a database and an agent's sockets

}  // namespace

absl::StatusOr<std::unique_ptr<KvAccess>> KvAccess::Open(const StateOptions& state,
                                                         Purpose purpose) {
  umask(S_IRWXG | S_IRWXO);
  if (state.directory.empty()) return InvalidArgument("--state: name the state directory");
  TANDEM_RETURN_IF_ERROR(CheckStateDirectory(state.directory, purpose == Purpose::kPut));
  // ZeroMQ ends the process where it gets none.
  TANDEM_RETURN_IF_ERROR(CheckDescriptors(OpenDescriptors() + kDescriptors));
  TANDEM_ASSIGN_OR_RETURN(auto box, OpenBox(state));
  std::unique_ptr<KvAccess> access(new KvAccess(std::move(box), AgentPath(state)));
  TANDEM_RETURN_IF_ERROR(access->FindOtherHosts(purpose));
  TANDEM_RETURN_IF_ERROR(access->ReadConversations(state));
  TANDEM_RETURN_IF_ERROR(access->Reach(purpose));
  TANDEM_RETURN_IF_ERROR(access->CheckKey());
  return access;
}

KvAccess::~KvAccess() {
  if (server_ == nullptr) return;
  // The database is closed before the lock on the directory goes with the server.
  server_->Stop();
  if (const absl::Status flushed = server_->Wait(); !flushed.ok()) {
    spdlog::warn("{}", Message(flushed));
  }
  tier_.reset();
}

absl::Status KvAccess::FindOtherHosts(Purpose purpose) {
  const fs::path mine(path_);
  std::set<std::string> hosts;
  std::error_code error;
  // `kv/HOST` of each that shares the directory, `peers/HOST` of each that the agent knows.
  for (const fs::path& folder : {mine.parent_path(), mine / "peers"}) {
    for (auto entry = fs::directory_iterator(folder, error);
         !error && entry != fs::directory_iterator(); entry.increment(error)) {
      const std::string host = entry->path().filename().string();
      if (!host.starts_with('.') && !kv_store::IsAside(host)) hosts.insert(host);
    }
  }
  hosts.erase(mine.filename().string());
  other_hosts_.assign(hosts.begin(), hosts.end());
  if (purpose == Purpose::kPut || fs::is_directory(mine, error)) return absl::OkStatus();
  return NotFound("{}: no KV is kept there for this host{}", path_,
                  other_hosts_.empty()
                      ? "; tandem serve --state keeps some"
                      : fmt::format("; there is some of {}: run this command there",
                                    fmt::join(other_hosts_, ", ")));
}

absl::Status KvAccess::ReadConversations(const StateOptions& state) {
  auto found = frontend::ConversationStore::Look(
      {.folder = state.directory + "/conversations", .box = box_.get()});
  if (found.ok()) {
    conversations_ = *std::move(found);
    return absl::OkStatus();
  }
  if (absl::IsNotFound(found.status())) return absl::OkStatus();
  if (absl::IsFailedPrecondition(found.status())) return found.status();  // another key
  spdlog::warn("{}; KV is told without the names of conversations", Message(found.status()));
  return absl::OkStatus();
}

absl::Status KvAccess::Reach(Purpose purpose) {
  const auto end = std::chrono::steady_clock::now() + kReachTime;
  for (;;) {
    TANDEM_ASSIGN_OR_RETURN(auto directory, kv_store::AgentDirectory::Open(path_));
    if (directory.Probe().ok()) {
      kv_store::AgentTierOptions options;
      options.deadline = kDeadline;
      options.flush_deadline = kLongDeadline;
      auto agent = std::make_unique<kv_store::AgentTier>(std::move(directory), options);
      if (agent->Renew().ok()) {
        tier_ = std::move(agent);
        return absl::OkStatus();
      }
    } else {
      absl::Status opened = directory.Lock();
      if (opened.ok()) opened = OpenAlone(std::move(directory), purpose);
      // Somebody else has the lock, or has not closed the database yet.
      if (!absl::IsFailedPrecondition(opened)) return opened;
    }
    if (std::chrono::steady_clock::now() > end) {
      return Unavailable(
          "the agent that keeps KV in {} runs, but does not answer; see {}/agent.log", path_,
          path_);
    }
    std::this_thread::sleep_for(kPollInterval);
  }
}

absl::Status KvAccess::OpenAlone(kv_store::AgentDirectory directory, Purpose purpose) {
  std::vector<kv_store::TieredStore::Behind> behind;
  const std::string records = path_ + "/records";
  if (std::error_code error; purpose == Purpose::kPut || fs::exists(records, error)) {
    auto disk = kv_store::DiskTier::Open({.directory = records,
                                          .limits = {},
                                          .keeps_damaged = purpose != Purpose::kMend,
                                          .erasure_mark = ErasurePath(path_)});
    if (absl::IsDataLoss(disk.status())) {
      return absl::DataLossError(fmt::format(
          "{}; all KV in it is lost, and tandem kv gc begins it anew", Message(disk.status())));
    }
    TANDEM_RETURN_IF_ERROR(disk.status());
    began_anew_ = (*disk)->began_anew();
    behind.push_back({.kind = kv_store::TierKind::kDisk, .tier = *std::move(disk)});
  }
  auto store = std::make_unique<kv_store::TieredStore>(
      kv_store::TieredStoreOptions{.host = {.bytes = kHostBytes},
                                   .policy = kv_store::WritePolicy::kThrough},
      std::move(behind));
  kv_store::AgentServerOptions options;
  options.ttl = std::chrono::hours(24 * 365);
  TANDEM_ASSIGN_OR_RETURN(
      server_, kv_store::AgentServer::Create(
                   std::move(directory), *store, [raw = store.get()] { return raw->StatsByTier(); },
                   options));
  tier_ = std::move(store);
  return absl::OkStatus();
}

/// A wrong key must not make records look damaged, or be used for new ones.
absl::Status KvAccess::CheckKey() {
  TANDEM_ASSIGN_OR_RETURN(const auto blocks, tier_->List(std::nullopt, kKeyTries));
  bool tried = false;
  for (const kv_store::ListedBlock& block : blocks) {
    for (const kv_store::TierKind kind : {kv_store::TierKind::kHost, kv_store::TierKind::kDisk}) {
      if (block.records.empty()) continue;
      const kv_store::RecordKey& key = block.records.front().key;
      auto peeked = tier_->Peek(kind, std::span(&key, 1));
      if (peeked.front().state != kv_store::PeekedRecord::State::kThere) continue;
      const bool looks_encrypted = kv_store::EncryptedBox::LooksEncrypted(peeked.front().bytes);
      const auto opened = names_.Open(key, std::move(peeked.front().bytes));
      if (names_.encrypted() ? opened.ok() : !looks_encrypted) return absl::OkStatus();
      tried = true;
    }
  }
  if (!tried) return absl::OkStatus();
  return names_.encrypted() ? FailedPrecondition(
                                  "--state-key: KV in {} does not open with it: the directory was "
                                  "made with another one, or without any",
                                  path_)
                            : FailedPrecondition(
                                  "{}: KV there is encrypted; give the --state-key with which the "
                                  "directory was made",
                                  path_);
}

absl::Status KvAccess::CheckAlive() {
  if (auto* agent = dynamic_cast<kv_store::AgentTier*>(tier_.get())) {
    if (!agent->Renew().ok()) {
      return Unavailable("the agent that keeps KV in {} went away meanwhile; run this again",
                         path_);
    }
  }
  return absl::OkStatus();
}

}  // namespace tandem::launcher
