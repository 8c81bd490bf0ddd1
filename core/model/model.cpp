#include "core/model/model.h"

#include <algorithm>

#include "core/model/config.h"

namespace tandem::core {

namespace {

/// What a layer with this sliding window (0: none) needs, without its layers.
KvLayerGroup NeedsOf(const AttentionForm& form, int window) {
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
    auto group = std::find_if(groups.begin(), groups.end(), [&](const KvLayerGroup& other) {
      return other.window == needs.window && other.global == needs.global &&
             other.global_reach == needs.global_reach;
    });
    if (group == groups.end()) group = groups.insert(groups.end(), needs);
    group->layers.push_back(layer);
  }
  return groups;
}

}  // namespace tandem::core
