#include "core/model/config.h"

#include <numeric>

#include "core/model/model.h"
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

std::vector<KvLayerGroup> LayerGroups(const ModelConfig& config) {
  std::vector<KvLayerGroup> groups;
  for (int layer = 0; layer < config.layers; ++layer) {
    const int window = config.layer_window[static_cast<size_t>(layer)];
    auto group = groups.begin();
    while (group != groups.end() && group->window != window) ++group;
    if (group == groups.end()) group = groups.insert(groups.end(), {window, {}});
    group->layers.push_back(layer);
  }
  return groups;
}

}  // namespace tandem::core
