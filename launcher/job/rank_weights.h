#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "core/base/arena.h"
#include "core/base/progress.h"
#include "core/formats/model_file.h"
#include "core/model/operations.h"
#include "core/transformer/transformer.h"
#include "kv_store/weights/kept_weights.h"
#include "launcher/state/host_weights.h"
#include "parallel/communicators/communicator.h"
#include "parallel/sharding/shard_plan.h"

namespace tandem::launcher {

/// Where a rank on CPUs has its packed weights: in what is kept on its host, or, until it knows a
/// place, in memory of its own. Thread safety: none.
class RankWeights final : public core::PackedMemory {
 public:
  /// Before Load; all ranks of the host have chosen before one of them loads.
  void ChoosePlace(const StateOptions& state, const core::ModelFile& file,
                   core::ActivationMode activations, const parallel::Communicator& world,
                   const parallel::ShardPlan& plan);
  /// Transformer::Load, with operations that take from here: finds what is kept, or has it kept
  /// from now on. Where that fails, nothing is kept.
  absl::StatusOr<std::unique_ptr<core::Transformer>> Load(const core::ModelFile& file,
                                                          const core::Shard& shard,
                                                          core::Operations& operations,
                                                          const core::Progress& progress);
  absl::StatusOr<Place> Take(std::string_view name, int64_t bytes) override;

  /// Whether the model was not read, since its weights were there.
  bool mapped() const { return kept_ != nullptr && kept_->found(); }
  /// What became of them, for the log of a host with so many ranks; empty: nothing was to.
  std::string Text(int ranks) const;

 private:
  void Open(core::Operations& operations);
  absl::Status Finish();
  /// Removes what was found; no weight may be in use.
  void Forget();

  WeightsPlace place_;
  core::Arena own_;
  std::unique_ptr<kv_store::KeptWeights> kept_;  // null: they are in `own_`
};

}  // namespace tandem::launcher
