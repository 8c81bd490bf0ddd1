#include "core/cuda/gpu_limits.h"

#include <algorithm>
#include <string_view>

#include "core/cuda/attention/attention_kernels.h"

namespace tandem::core {

absl::Status CheckGpuLimits(const ModelConfig& config, int64_t step_tokens) {
  struct Limit {
    std::string_view operation;
    std::string_view feature;
    int64_t value;
    int64_t most;
  };
  const Limit limits[] = {
      {"attention", "a head dimension", config.head_dim, kMostHeadDim},
      {"rotary embedding", "query and KV heads", int64_t{config.heads} + config.kv_heads,
       kMostGridRows},
      {"a product", "tokens in a step (--prefill-chunk and --max-running)", step_tokens,
       kMostStepTokens},
      {"work on rows", "columns", std::max(config.dim, config.ffn_dim), kMostColumns}};
  for (const Limit& limit : limits) {
    if (limit.value <= limit.most) continue;
    return Unimplemented("--device cuda: {} with {} of {} is not there for {}; at most {}",
                         limit.operation, limit.feature, limit.value, config.name, limit.most);
  }
  if (config.attention.infini()) {
    return Unimplemented(
        "--device cuda: Infini-attention is not there; give --device cpu, or another --attention");
  }
  if (config.head_dim % 2 != 0) {
    return Unimplemented(
        "--device cuda: attention with an odd head dimension ({}) is not there for {}",
        config.head_dim, config.name);
  }
  return absl::OkStatus();
}

}  // namespace tandem::core
