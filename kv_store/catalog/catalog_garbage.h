#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>
#include <vector>

#include "kv_store/catalog/catalog.h"

namespace tandem::kv_store {

/// Why a block is to go.
enum class GarbageReason : uint8_t {
  kDamaged,
  kIncomplete,  // KV heads are missing
  kOrphaned,    // it stands on what is missing, or goes
  kUnused,      // for too long
  kRoom,        // the longest unused, to make room
};
std::string_view GarbageReasonName(GarbageReason reason);

struct Garbage {
  size_t block = 0;  // in the catalog
  GarbageReason reason = GarbageReason::kDamaged;
  std::vector<size_t> records = {};  // those of the block that go
  bool whole = true;                 // nothing of the block stays
};

struct GarbageRules {
  /// Incomplete and orphaned blocks go, since no model can use them. False where other hosts may
  /// have the rest.
  bool useless = true;
  /// Blocks used since then are not called useless, since the rest may be on its way. Microseconds
  /// since 1970.
  uint64_t settled_before = std::numeric_limits<uint64_t>::max();
  /// Blocks used last before it go. Microseconds since 1970.
  std::optional<uint64_t> unused_since = std::nullopt;
  /// Of records that stay.
  std::optional<int64_t> most_bytes = std::nullopt;
};

/// What is to go. With a block goes all that stands on it and that no model can reach without it;
/// an unused prefix goes from its end. Of a block of which something is reachable only what is
/// damaged or incomplete goes: the pages of a model, or its state. The rules of use and of room
/// apply to blocks that a newer program has written, the other rules do not. Thread safety: none
/// needed, a function of its arguments.
std::vector<Garbage> FindGarbage(const Catalog& catalog, const GarbageRules& rules);

}  // namespace tandem::kv_store
