#include "core/model/config.h"

#include <numeric>

#include "core/model/shard.h"

namespace tandem::core {

std::string_view FamilyName(Family family) {
  switch (family) {
    case Family::kLlama:
      return "llama";
    case Family::kQwen2:
      return "qwen2";
    case Family::kQwen3:
      return "qwen3";
    case Family::kGemma3:
      return "gemma3";
  }
  return "unknown";
}

int ModelConfig::heads_per_partial_sum() const { return 32 / std::gcd(head_dim, 32); }

Shard WholeModel(const ModelConfig& config) {
  return {{0, config.heads}, {0, config.kv_heads}, {0, config.ffn_dim}, {0, config.vocab}};
}

}  // namespace tandem::core
