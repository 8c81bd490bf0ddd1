#include "kv_store/catalog/catalog_garbage.h"

#include <algorithm>
#include <set>
#include <utility>

namespace tandem::kv_store {
namespace {

bool AnyIs(const CatalogBlock& block, RecordHealth health) {
  return std::any_of(block.records.begin(), block.records.end(),
                     [&](const CatalogRecord& record) { return record.health == health; });
}

class GarbageFinder {
 public:
  GarbageFinder(const Catalog& catalog, const GarbageRules& rules)
      : catalog_(catalog), rules_(rules), goes_(catalog.blocks().size(), false) {}

  std::vector<Garbage> Find() {
    for (size_t i = 0; i < goes_.size(); ++i) {
      if (AnyIs(catalog_.blocks()[i], RecordHealth::kDamaged)) {
        RemoveWithAbove(i, GarbageReason::kDamaged);
      }
    }
    for (size_t i = 0; rules_.useless && i < goes_.size(); ++i) {
      if (const auto reason = Useless(i)) RemoveWithAbove(i, *reason);
    }
    RemoveUnused();
    return std::move(garbage_);
  }

 private:
  void RemoveWithAbove(size_t block, GarbageReason reason) {
    if (goes_[block]) return;
    goes_[block] = true;
    garbage_.push_back({.block = block, .reason = reason});
    for (size_t next = garbage_.size() - 1; next < garbage_.size(); ++next) {
      for (const size_t above : catalog_.blocks()[garbage_[next].block].above) {
        if (goes_[above]) continue;
        goes_[above] = true;
        garbage_.push_back({.block = above, .reason = GarbageReason::kOrphaned});
      }
    }
  }

  std::optional<GarbageReason> Useless(size_t block) const {
    const CatalogBlock& one = catalog_.blocks()[block];
    // What is just coming or going, or a newer program's, is not judged.
    if (one.last_use >= rules_.settled_before || AnyIs(one, RecordHealth::kOtherVersion) ||
        AnyIs(one, RecordHealth::kGone)) {
      return std::nullopt;
    }
    if (!catalog_.IsAnchored(block)) return GarbageReason::kOrphaned;
    bool whole = false;
    for (size_t m = 0; m < catalog_.models().size(); ++m) {
      if (catalog_.IsUsable(block, m)) return std::nullopt;
      whole = whole || (catalog_.Has(block, m) && catalog_.Missing(block, m).empty());
    }
    return whole ? GarbageReason::kOrphaned : GarbageReason::kIncomplete;
  }

  void RemoveUnused() {
    if (!rules_.unused_since && !rules_.most_bytes) return;
    std::vector<size_t> above(goes_.size(), 0);  // that stay
    std::set<std::pair<uint64_t, size_t>> leaves;
    int64_t bytes = 0;
    for (size_t i = 0; i < goes_.size(); ++i) {
      if (goes_[i]) continue;
      const CatalogBlock& block = catalog_.blocks()[i];
      bytes += block.bytes();
      above[i] = static_cast<size_t>(std::count_if(block.above.begin(), block.above.end(),
                                                   [&](size_t other) { return !goes_[other]; }));
      if (above[i] == 0) leaves.emplace(block.last_use, i);
    }
    while (!leaves.empty()) {
      const auto [last_use, i] = *leaves.begin();
      const bool unused = rules_.unused_since && last_use < *rules_.unused_since;
      if (!unused && (!rules_.most_bytes || bytes <= *rules_.most_bytes)) return;
      leaves.erase(leaves.begin());
      goes_[i] = true;
      garbage_.push_back(
          {.block = i, .reason = unused ? GarbageReason::kUnused : GarbageReason::kRoom});
      const CatalogBlock& block = catalog_.blocks()[i];
      bytes -= block.bytes();
      if (block.below && !goes_[*block.below] && --above[*block.below] == 0) {
        leaves.emplace(catalog_.blocks()[*block.below].last_use, *block.below);
      }
    }
  }

  const Catalog& catalog_;
  const GarbageRules& rules_;
  std::vector<bool> goes_;  // [blocks]
  std::vector<Garbage> garbage_;
};

}  // namespace

std::string_view GarbageReasonName(GarbageReason reason) {
  switch (reason) {
    case GarbageReason::kDamaged:
      return "damaged";
    case GarbageReason::kIncomplete:
      return "incomplete";
    case GarbageReason::kOrphaned:
      return "orphaned";
    case GarbageReason::kUnused:
      return "unused";
    case GarbageReason::kRoom:
      return "room";
  }
  return "damaged";
}

std::vector<Garbage> FindGarbage(const Catalog& catalog, const GarbageRules& rules) {
  return GarbageFinder(catalog, rules).Find();
}

}  // namespace tandem::kv_store
