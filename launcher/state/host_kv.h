#pragma once

#include <memory>
#include <thread>

#include "core/base/mutex.h"
#include "core/base/status.h"
#include "core/formats/model_file.h"
#include "core/model/kv_view.h"
#include "kv_store/agent_link/agent_tier.h"
#include "kv_store/base/encrypted_box.h"
#include "kv_store/records/record.h"
#include "kv_store/records/tier.h"
#include "launcher/options/model_choices.h"
#include "launcher/options/options.h"

namespace tandem::launcher {

/// The box of a state directory; null: it is not encrypted. kInvalidArgument, naming the flag.
absl::StatusOr<std::unique_ptr<kv_store::EncryptedBox>> OpenBox(const StateOptions& state);

/// The shape of this model's KV, of all its KV heads.
core::KvGeometry GeometryOf(const core::ModelConfig& config, const ModelChoices& choices);

/// What decides, besides the tokens, which bits the KV of this model has.
kv_store::Fingerprint KvFingerprintOf(const core::ModelFile& file, const ModelOptions& options,
                                      const ModelChoices& choices);

/// The KV that the agent of this host keeps, as one process sees it: encrypted where the state
/// directory is. Thread safety: as Tier.
class HostKv {
 public:
  /// Starts the agent where none runs. Errors: EnsureAgent, OpenBox.
  static absl::StatusOr<std::unique_ptr<HostKv>> Open(const StateOptions& state);
  /// As Open; but where no agent comes up now (kUnavailable), because the disk is full, say, KV is
  /// kept once there is one: `missing` says why. `keeps_agent`: starts another when it dies or
  /// there is none; one process of a host suffices.
  static absl::StatusOr<std::unique_ptr<HostKv>> OpenForRank(const StateOptions& state,
                                                             bool keeps_agent);
  ~HostKv();
  HostKv(const HostKv&) = delete;
  HostKv& operator=(const HostKv&) = delete;

  kv_store::Tier& tier() { return *tier_; }
  /// The agent itself.
  kv_store::AgentTier& agent() { return agent_; }
  /// Why there was no agent when this was opened.
  const absl::Status& missing() const { return missing_; }
  /// Starts the agent where none runs. kUnavailable where the state directory was moved away, and
  /// is not made again: it would be in the way of whoever puts it back.
  absl::Status KeepRunning();

 private:
  HostKv(StateOptions state, absl::Status missing, std::unique_ptr<kv_store::EncryptedBox> box,
         std::unique_ptr<kv_store::AgentTier> agent);
  void KeepAgent();

  static absl::StatusOr<std::unique_ptr<HostKv>> OpenWith(const StateOptions& state,
                                                          absl::Status missing);

  const StateOptions state_;
  const absl::Status missing_;
  const std::unique_ptr<kv_store::EncryptedBox> box_;
  kv_store::AgentTier& agent_;
  std::unique_ptr<kv_store::Tier> tier_;

  Mutex mutex_;
  CondVar changed_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread keeper_;
};

}  // namespace tandem::launcher
