#include "core/model/model.h"

#include <algorithm>

#include "core/model/config.h"

namespace tandem::core {

namespace {

/// What a layer with this sliding window (0: none) needs, without its layers.
KvLayerGroup NeedsOf(const AttentionForm& form, int window) {
  if (form.infini() && window == 0) return {.layers = {}, .segment = form.segment};
  // What is chosen at random may be any block.
  if (!form.sparse() || form.random > 0) return {.window = window, .layers = {}};
  if (window > 0 && window <= form.window) return {.window = window, .layers = {}};
  return {.window = form.window,
          .layers = {},
          .global = form.global,
          .global_reach = form.global > 0 ? window : 0};
}

}  // namespace

std::vector<KvLayerGroup> LayerGroups(const ModelConfig& config) {
  std::vector<KvLayerGroup> groups;
  for (int layer = 0; layer < config.layers; ++layer) {
    const KvLayerGroup needs =
        NeedsOf(config.attention, config.layer_window[static_cast<size_t>(layer)]);
    auto group = std::find_if(groups.begin(), groups.end(), [&](KvLayerGroup other) {
      other.layers.clear();
      return other == needs;
    });
    if (group == groups.end()) group = groups.insert(groups.end(), needs);
    group->layers.push_back(layer);
  }
  const auto keys = std::ranges::find_if(groups, [](const auto& g) { return g.segment > 0; });
  if (keys != groups.end()) {
    KvLayerGroup states = *keys;
    states.states = true;
    states.state_interval = config.state_interval;
    groups.push_back(std::move(states));
  }
  return groups;
}

}  // namespace tandem::core
