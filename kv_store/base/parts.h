#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

namespace tandem::kv_store {

/// A list in parts of at most so many items, in order; none if it is empty.
template <typename T>
std::vector<std::span<const T>> PartsOf(std::span<const T> all, size_t most) {
  std::vector<std::span<const T>> parts;
  for (; !all.empty(); all = all.subspan(parts.back().size())) {
    parts.push_back(all.first(std::min(most, all.size())));
  }
  return parts;
}

}  // namespace tandem::kv_store
