#include "launcher/state/host_kv.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <chrono>
#include <string>
#include <utility>

#include "core/base/isa.h"
#include "core/model/attention_text.h"
#include "core/model/model.h"
#include "kv_store/base/blake2b.h"
#include "kv_store/base/files.h"
#include "kv_store/tiers/encrypted_tier.h"
#include "launcher/options/version.h"
#include "launcher/state/kv_agent.h"

namespace tandem::launcher {
namespace {

constexpr auto kAgentLookInterval = std::chrono::seconds(2);

}  // namespace

absl::StatusOr<std::unique_ptr<kv_store::EncryptedBox>> OpenBox(const StateOptions& state) {
  if (state.key_file.empty()) return nullptr;
  const auto key = kv_store::ReadStateKey(state.key_file);
  if (!key.ok()) return InvalidArgument("--state-key: {}", Message(key.status()));
  return std::make_unique<kv_store::EncryptedBox>(*key);
}

core::KvGeometry GeometryOf(const core::ModelConfig& config, const ModelChoices& choices) {
  return {.groups = core::LayerGroups(config),
          .layers = config.layers,
          .kv_heads = config.kv_heads,
          .head_dim = config.head_dim,
          .dtype = choices.kv_dtype};
}

kv_store::Fingerprint KvFingerprintOf(const core::ModelFile& file, const ModelOptions& options,
                                      const ModelChoices& choices) {
  std::string facts =
      fmt::format("tandem kv 1, model {:016x}, numerics {}, device {}, activations {}, cache {}",
                  file.fingerprint(), kNumericsVersion, choices.exact ? "cpu" : "cuda, not exact",
                  options.activations, KvDtypeName(choices.kv_dtype));
  if (!choices.attention.dense()) {
    facts += fmt::format(", attention {}", core::AttentionText(choices.attention));
  }
  return kv_store::Blake2b<kv_store::Fingerprint>(std::as_bytes(std::span(facts)));
}

absl::StatusOr<std::unique_ptr<HostKv>> HostKv::Open(const StateOptions& state) {
  umask(S_IRWXG | S_IRWXO);
  TANDEM_RETURN_IF_ERROR(EnsureAgent(state));
  return OpenWith(state, absl::OkStatus());
}

absl::StatusOr<std::unique_ptr<HostKv>> HostKv::OpenForRank(const StateOptions& state,
                                                            bool keeps_agent) {
  umask(S_IRWXG | S_IRWXO);
  absl::Status runs = EnsureAgent(state);
  if (!runs.ok() && !absl::IsUnavailable(runs)) return runs;
  TANDEM_ASSIGN_OR_RETURN(auto kv, OpenWith(state, std::move(runs)));
  if (keeps_agent) kv->keeper_ = std::thread([raw = kv.get()] { raw->KeepAgent(); });
  return kv;
}

absl::StatusOr<std::unique_ptr<HostKv>> HostKv::OpenWith(const StateOptions& state,
                                                         absl::Status missing) {
  TANDEM_ASSIGN_OR_RETURN(auto box, OpenBox(state));
  TANDEM_ASSIGN_OR_RETURN(auto directory, kv_store::AgentDirectory::Open(AgentPath(state)));
  auto agent =
      std::make_unique<kv_store::AgentTier>(std::move(directory), kv_store::AgentTierOptions{});
  return std::unique_ptr<HostKv>(
      new HostKv(state, std::move(missing), std::move(box), std::move(agent)));
}

HostKv::HostKv(StateOptions state, absl::Status missing,
               std::unique_ptr<kv_store::EncryptedBox> box,
               std::unique_ptr<kv_store::AgentTier> agent)
    : state_(std::move(state)),
      missing_(std::move(missing)),
      box_(std::move(box)),
      agent_(*agent),
      tier_(std::move(agent)) {
  if (box_) tier_ = std::make_unique<kv_store::EncryptedTier>(std::move(tier_), *box_);
}

HostKv::~HostKv() {
  {
    const MutexLock lock(mutex_);
    stop_ = true;
  }
  changed_.NotifyAll();
  if (keeper_.joinable()) keeper_.join();
}

absl::Status HostKv::KeepRunning() {
  if (!kv_store::Exists(state_.directory) && !agent_.DirectoryIsRemoved()) {
    return Unavailable("{} is not there any more: no KV is kept in it", state_.directory);
  }
  return EnsureAgent(state_);
}

void HostKv::KeepAgent() {
  bool failed = !missing_.ok();  // which is told
  MutexLock lock(mutex_);
  while (!stop_) {
    changed_.WaitFor(mutex_, kAgentLookInterval);
    if (stop_) return;
    lock.Unlock();
    const absl::Status status = KeepRunning();
    if (!status.ok() && !failed) spdlog::warn("{}; KV is not saved meanwhile", Message(status));
    if (status.ok() && failed) spdlog::info("an agent keeps KV in {} again", AgentPath(state_));
    failed = !status.ok();
    lock.Lock();
  }
}

}  // namespace tandem::launcher
