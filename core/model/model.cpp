#include "core/model/model.h"

#include "core/model/config.h"

namespace tandem::core {

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
