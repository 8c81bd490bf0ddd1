#include "launcher/options/rank_command.h"

#include <filesystem>

#include "launcher/options/model_choices.h"
#include "parallel/sharding/model_costs.h"
#include "parallel/sharding/shard_plan.h"

namespace tandem::launcher {

absl::StatusOr<std::unique_ptr<core::ModelFile>> CheckRanks(const ModelOptions& model, int ranks) {
  TANDEM_RETURN_IF_ERROR(ModelChoices::From(model).status());
  TANDEM_ASSIGN_OR_RETURN(auto file, core::ModelFile::Open(model.model));
  TANDEM_ASSIGN_OR_RETURN(const parallel::ModelCosts costs, parallel::CostsOf(*file));
  TANDEM_RETURN_IF_ERROR(
      parallel::PlanShards(file->config(), costs, {.ranks = ranks, .weights = model.weights})
          .status());
  return file;
}

std::vector<std::string> AgentFlags(const StateOptions& state) {
  return {"--kv-write",       state.kv_write,
          "--kv-host-memory", fmt::format("{}", state.kv_host_memory),
          "--kv-disk",        fmt::format("{}", state.kv_disk),
          "--kv-tenant",      fmt::format("{}", state.kv_tenant),
          "--agent-ttl",      fmt::format("{}", state.agent_ttl)};
}

std::vector<std::string> CommandOfRanks(const std::string& name, const ModelOptions& o) {
  std::error_code error;
  const std::string program = std::filesystem::read_symlink("/proc/self/exe", error).string();
  std::vector<std::string> command = {program, name, std::filesystem::absolute(o.model).string()};
  const auto add = [&command](const char* flag, std::string value) {
    command.push_back(flag);
    command.push_back(std::move(value));
  };
  add("--threads", fmt::format("{}", o.threads));
  add("--pin", o.pin);
  add("--isa", o.isa);
  add("--activations", o.activations);
  add("--device", o.device);
  add("--kv-memory", fmt::format("{}", o.kv_memory));
  add("--prefill-chunk", fmt::format("{}", o.prefill_chunk));
  add("--max-running", fmt::format("{}", o.max_running));
  add("--max-waiting", fmt::format("{}", o.max_waiting));
  add("--collective-timeout", fmt::format("{}", o.collective_timeout));
  if (const StateOptions& state = o.state; !state.directory.empty()) {
    add("--state", std::filesystem::absolute(state.directory).string());
    if (!state.key_file.empty()) {
      add("--state-key", std::filesystem::absolute(state.key_file).string());
    }
    add("--kv-replicas", fmt::format("{}", state.kv_replicas));
    add("--durability", fmt::format("{}", state.durability));
    for (const std::string& word : AgentFlags(state)) command.push_back(word);
  }
  if (o.speculate) command.push_back("--speculate");
  if (!o.kv_dtype.empty()) add("--kv-dtype", o.kv_dtype);
  if (!o.weights.empty()) add("--weights", fmt::format("{}", fmt::join(o.weights, ",")));
  if (!o.control_interface.empty()) add("--control-interface", o.control_interface);
  return command;
}

}  // namespace tandem::launcher
