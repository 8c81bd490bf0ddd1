#pragma once

#include <optional>
#include <span>
#include <vector>

#include "kv_store/records/tier.h"

namespace tandem::kv_store {

/// The keys for which nothing was found yet, and their places among all.
struct MissingKeys {
  template <typename Found>
  MissingKeys(std::span<const RecordKey> all, const std::vector<std::optional<Found>>& found) {
    for (size_t i = 0; i < all.size(); ++i) {
      if (found[i]) continue;
      keys.push_back(all[i]);
      places.push_back(i);
    }
  }

  std::vector<RecordKey> keys;
  std::vector<size_t> places;
};

}  // namespace tandem::kv_store
