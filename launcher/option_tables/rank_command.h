#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/formats/model_file.h"
#include "launcher/options/model_choices.h"
#include "launcher/options/option_row.h"
#include "launcher/options/options.h"
#include "parallel/sharding/shard_plan.h"

namespace tandem::launcher {

/// The shards of the ranks, if the flags and the memory for KV that they give go with them.
absl::StatusOr<parallel::ShardPlan> PlanRanks(const ModelOptions& model,
                                              const ModelChoices& choices,
                                              const core::ModelFile& file, int ranks);

/// Whether the memory for KV that the flags give has a block of each kind on each rank of a plan.
absl::Status CheckPools(const ModelOptions& model, const ModelChoices& choices,
                        const core::ModelFile& file, const parallel::ShardPlan& plan);

/// Finds, before anything is started, whatever is wrong with the model, the flags or the number of
/// ranks; and with the devices of this host, if ranks will run on it.
absl::StatusOr<std::unique_ptr<core::ModelFile>> CheckRanks(const ModelOptions& model,
                                                            const LaunchOptions& launch);

/// This program with a command (worker, bench, agent) and arguments of these values.
std::vector<std::string> CommandOfThisProgram(const std::string& name,
                                              const std::vector<OptionRow>& rows);

/// As exec takes them: ended by a null pointer, valid as long as `strings` stay.
std::vector<char*> Pointers(std::vector<std::string>& strings);

/// The options in which the ranks of a job must agree: with `choices`, which were made of them.
std::vector<parallel::WorldFact> SameOptions(ModelOptions options, const ModelChoices& choices);

}  // namespace tandem::launcher
