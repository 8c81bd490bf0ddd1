#include "launcher/job/rank_weights.h"

#include <spdlog/spdlog.h>

#include <utility>
#include <vector>

#include "core/base/counted.h"
#include "kv_store/base/files.h"

namespace tandem::launcher {

void RankWeights::ChoosePlace(const StateOptions& state, const core::ModelFile& file,
                              core::ActivationMode activations, const parallel::Communicator& world,
                              const parallel::ShardPlan& plan) {
  std::vector<core::Shard> shards;  // of this host's ranks
  size_t mine = 0;
  for (int rank = 0; rank < world.size(); ++rank) {
    if (rank == world.rank()) mine = shards.size();
    if (world.hosts()[static_cast<size_t>(rank)] != world.host()) continue;
    shards.push_back(plan.shards[static_cast<size_t>(rank)]);
  }
  place_ = ChooseWeightsPlace(state, file, activations, shards, mine);
}

absl::StatusOr<std::unique_ptr<core::Transformer>> RankWeights::Load(
    const core::ModelFile& file, const core::Shard& shard, core::Operations& operations,
    const core::Progress& progress) {
  using Loaded = absl::StatusOr<std::unique_ptr<core::Transformer>>;
  Open(operations);
  const auto load = [&]() -> Loaded {
    TANDEM_ASSIGN_OR_RETURN(auto model, core::Transformer::Load(file, shard, operations, progress));
    TANDEM_RETURN_IF_ERROR(Finish());
    return model;
  };
  Loaded loaded = load();
  if (!absl::IsDataLoss(loaded.status()) || !mapped()) return loaded;
  Forget();
  return load();
}

void RankWeights::Open(core::Operations& operations) {
  if (!place_.kept()) return;
  auto opened = kv_store::KeptWeights::Open(
      {.path = place_.path,
       .key = place_.key,
       .matrices = place_.matrices,
       .in_memory = place_.in_memory,
       .may_copy = place_.may_copy,
       .run = [&operations](int64_t tasks, absl::FunctionRef<void(int64_t task)> body) {
         operations.ParallelFor(tasks, body);
       }});
  if (opened.ok()) {
    kept_ = *std::move(opened);
  } else {
    place_.path.clear();
    place_.why_not = Message(opened.status());
  }
}

absl::StatusOr<core::PackedMemory::Place> RankWeights::Take(std::string_view name, int64_t bytes) {
  return kept_ ? kept_->Take(name, bytes) : own_.Take(name, bytes);
}

absl::Status RankWeights::Finish() {
  if (!kept_) return absl::OkStatus();
  absl::Status status = kept_->Finish();
  if (status.ok() || kept_->found()) return status;
  place_.path.clear();
  place_.why_not = Message(status);
  return absl::OkStatus();
}

void RankWeights::Forget() {
  kept_.reset();
  spdlog::warn(
      "{}: these are other weights than its name says: removed, and read from the model anew",
      place_.path);
  static_cast<void>(kv_store::Remove(place_.path));
  place_.why_not = "what was kept was of something else";
  place_.path.clear();
}

std::string RankWeights::Text(int ranks) const {
  if (place_.kept()) {
    return fmt::format("the packed weights of its {} ({}) {} {}", Counted(ranks, "rank"),
                       SizeText(place_.host_bytes),
                       mapped() ? "were found in" : "stay for the next start in",
                       kv_store::FolderOf(place_.path));
  }
  if (place_.why_not.empty()) return "";
  return fmt::format("packed weights are not kept for the next start: {}", place_.why_not);
}

}  // namespace tandem::launcher
