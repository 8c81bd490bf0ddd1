#include "launcher/option_tables/rank_command.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "core/model/attention_text.h"
#include "core/model/host_memory.h"
#include "core/model/model.h"
#include "core/system/host_name.h"
#include "kv_store/pages/pool_size.h"
#include "launcher/option_tables/option_table.h"
#include "parallel/placement/cache_memory.h"
#include "parallel/placement/gpu_placement.h"
#include "parallel/sharding/model_costs.h"

namespace tandem::launcher {

absl::StatusOr<parallel::ShardPlan> PlanRanks(const ModelOptions& model,
                                              const ModelChoices& choices,
                                              const core::ModelFile& file, int ranks) {
  TANDEM_ASSIGN_OR_RETURN(const parallel::ModelCosts costs, parallel::CostsOf(file));
  auto plan =
      parallel::PlanShards(file.config(), costs, {.ranks = ranks, .weights = model.weights});
  if (!plan.ok()) return model.sources.Blame("--ranks", plan.status());
  TANDEM_RETURN_IF_ERROR(CheckPools(model, choices, file, *plan));
  return plan;
}

absl::Status CheckPools(const ModelOptions& model, const ModelChoices& choices,
                        const core::ModelFile& file, const parallel::ShardPlan& plan) {
  if (!model.kv_memory) return absl::OkStatus();
  const core::ModelConfig& config = file.config();
  for (const core::Shard& shard : plan.shards) {
    TANDEM_RETURN_IF_ERROR(
        kv_store::CheckPoolBytes({.groups = core::LayerGroups(config),
                                  .layers = config.layers,
                                  .kv_heads = static_cast<int>(shard.kv_heads.count),
                                  .head_dim = config.head_dim,
                                  .dtype = choices.kv_dtype},
                                 *model.kv_memory));
  }
  return absl::OkStatus();
}

namespace {

/// The GPUs or the memory of this host, if nothing says that ranks run on others.
absl::Status CheckDevicesHere(const ModelOptions& model, const ModelChoices& choices,
                              const LaunchOptions& launch) {
  if (!launch.hostfile.empty() || !launch.mpirun_arguments.empty()) return absl::OkStatus();
  if (choices.device != core::DeviceKind::kCuda) {
    TANDEM_ASSIGN_OR_RETURN(const int64_t available, core::HostMemory().AvailableBytes());
    return parallel::CheckCacheMemory(model.kv_memory.value_or(0), core::HostName(), launch.ranks,
                                      available);
  }
  TANDEM_ASSIGN_OR_RETURN(const std::vector<core::Gpu> gpus, core::FindGpus(choices.device));
  parallel::GpuWish wish{.wanted = true, .gpus = {}};
  for (const core::Gpu& gpu : gpus) wish.gpus.push_back(gpu.id);
  const auto ranks = static_cast<size_t>(std::max(1, launch.ranks));
  return parallel::PlaceGpus(std::vector(ranks, core::HostName()), std::vector(ranks, wish),
                             model.share_gpus)
      .status();
}

}  // namespace

absl::StatusOr<std::unique_ptr<core::ModelFile>> CheckRanks(const ModelOptions& model,
                                                            const LaunchOptions& launch) {
  TANDEM_ASSIGN_OR_RETURN(const ModelChoices choices, ModelChoices::From(model));
  const bool cuda = choices.device == core::DeviceKind::kCuda;
  if (cuda) TANDEM_RETURN_IF_ERROR(CheckDevicesHere(model, choices, launch));
  TANDEM_ASSIGN_OR_RETURN(auto file, OpenModel(model, choices));
  TANDEM_RETURN_IF_ERROR(PlanRanks(model, choices, *file, launch.ranks).status());
  if (!cuda) TANDEM_RETURN_IF_ERROR(CheckDevicesHere(model, choices, launch));
  return file;
}

std::vector<std::string> CommandOfThisProgram(const std::string& name,
                                              const std::vector<OptionRow>& rows) {
  std::error_code error;
  std::vector<std::string> command = {
      std::filesystem::read_symlink("/proc/self/exe", error).string(), name};
  for (std::string& argument : ArgumentsOf(rows)) command.push_back(std::move(argument));
  return command;
}

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  pointers.reserve(strings.size() + 1);
  for (std::string& text : strings) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

std::vector<parallel::WorldFact> SameOptions(ModelOptions options, const ModelChoices& choices) {
  options.kv_dtype = KvDtypeName(choices.kv_dtype);
  options.attention = core::AttentionText(choices.attention);
  std::vector<parallel::WorldFact> facts = SameOnAllRanks(ModelRows(options));
  for (parallel::WorldFact& fact : SameOnAllRanks(StateRows(options.state))) {
    if (options.state.directory.empty()) fact.value = "without --state";
    facts.push_back(std::move(fact));
  }
  return facts;
}

}  // namespace tandem::launcher
