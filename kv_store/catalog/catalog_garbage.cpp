#include "kv_store/catalog/catalog_garbage.h"

#include <algorithm>
#include <map>
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
      if (IsReachable(i)) {
        RemovePart(i);
      } else if (AnyIs(catalog_.blocks()[i], RecordHealth::kDamaged)) {
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
  bool IsReachable(size_t block) const {
    for (size_t m = 0; m < catalog_.models().size(); ++m) {
      if (catalog_.IsReachable(block, m)) return true;
    }
    return false;
  }

  bool HasStates(size_t block) const {
    const std::vector<CatalogRecord>& records = catalog_.blocks()[block].records;
    return std::any_of(records.begin(), records.end(), [&](const CatalogRecord& record) {
      return record.model && catalog_.models()[*record.model].state_groups.contains(record.group);
    });
  }

  /// Whether what is just coming or going, or a newer program's, keeps the block from being judged.
  bool IsUnsettled(const CatalogBlock& block) const {
    return block.last_use >= rules_.settled_before || AnyIs(block, RecordHealth::kOtherVersion) ||
           AnyIs(block, RecordHealth::kGone);
  }

  void Remove(size_t block, GarbageReason reason) {
    goes_[block] = true;
    Garbage garbage{.block = block, .reason = reason};
    const auto part = parts_.find(block);
    for (size_t r = 0; r < catalog_.blocks()[block].records.size(); ++r) {
      if (part == parts_.end() || !part->second.contains(r)) garbage.records.push_back(r);
    }
    garbage_.push_back(std::move(garbage));
  }

  /// Of a block that stays: what is damaged, and what is not whole without it.
  void RemovePart(size_t i) {
    const CatalogBlock& block = catalog_.blocks()[i];
    const bool judges = rules_.useless && !IsUnsettled(block);
    Garbage garbage{.block = i, .reason = GarbageReason::kIncomplete, .whole = false};
    for (size_t r = 0; r < block.records.size(); ++r) {
      const CatalogRecord& record = block.records[r];
      const bool damaged = record.health == RecordHealth::kDamaged;
      if (!damaged && (!judges || IsOfWhole(i, record))) continue;
      if (damaged) garbage.reason = GarbageReason::kDamaged;
      garbage.records.push_back(r);
    }
    if (garbage.records.empty()) return;
    parts_[i] = {garbage.records.begin(), garbage.records.end()};
    garbage_.push_back(std::move(garbage));
  }

  bool IsOfWhole(size_t block, const CatalogRecord& record) const {
    if (!record.model) return true;
    return catalog_.models()[*record.model].state_groups.contains(record.group)
               ? catalog_.HasWholeState(block, *record.model)
               : catalog_.HasWholePages(block, *record.model);
  }

  void RemoveWithAbove(size_t block, GarbageReason reason) {
    if (goes_[block]) return;
    Remove(block, reason);
    for (size_t next = garbage_.size() - 1; next < garbage_.size(); ++next) {
      for (const size_t above : catalog_.blocks()[garbage_[next].block].above) {
        if (goes_[above] || Stays(above)) continue;
        Remove(above, GarbageReason::kOrphaned);
      }
    }
  }

  /// Whether a block needs nothing of what it stands on, as far as can be told.
  bool Stays(size_t block) const {
    const CatalogBlock& one = catalog_.blocks()[block];
    return IsReachable(block) || AnyIs(one, RecordHealth::kOtherVersion) ||
           (one.last_use >= rules_.settled_before && HasStates(block));
  }

  std::optional<GarbageReason> Useless(size_t block) const {
    if (IsUnsettled(catalog_.blocks()[block]) || IsReachable(block)) return std::nullopt;
    bool whole = false;
    bool incomplete = false;
    for (size_t m = 0; m < catalog_.models().size(); ++m) {
      if (!catalog_.Has(block, m)) continue;
      const bool missing = !catalog_.Missing(block, m).empty();
      whole = whole || !missing;
      incomplete = incomplete || missing;
    }
    const bool orphaned = whole || (!incomplete && !catalog_.IsAnchored(block));
    return orphaned ? GarbageReason::kOrphaned : GarbageReason::kIncomplete;
  }

  int64_t BytesThatStay(size_t block) const {
    int64_t bytes = catalog_.blocks()[block].bytes();
    if (const auto part = parts_.find(block); part != parts_.end()) {
      for (const size_t r : part->second) bytes -= catalog_.blocks()[block].records[r].bytes;
    }
    return bytes;
  }

  void RemoveUnused() {
    if (!rules_.unused_since && !rules_.most_bytes) return;
    std::vector<size_t> above(goes_.size(), 0);  // that stay
    std::set<std::pair<uint64_t, size_t>> leaves;
    int64_t bytes = 0;
    for (size_t i = 0; i < goes_.size(); ++i) {
      if (goes_[i]) continue;
      const CatalogBlock& block = catalog_.blocks()[i];
      bytes += BytesThatStay(i);
      above[i] = static_cast<size_t>(std::count_if(block.above.begin(), block.above.end(),
                                                   [&](size_t other) { return !goes_[other]; }));
      if (above[i] == 0) leaves.emplace(block.last_use, i);
    }
    while (!leaves.empty()) {
      const auto [last_use, i] = *leaves.begin();
      const bool unused = rules_.unused_since && last_use < *rules_.unused_since;
      if (!unused && (!rules_.most_bytes || bytes <= *rules_.most_bytes)) return;
      leaves.erase(leaves.begin());
      Remove(i, unused ? GarbageReason::kUnused : GarbageReason::kRoom);
      const CatalogBlock& block = catalog_.blocks()[i];
      bytes -= BytesThatStay(i);
      if (block.below && !goes_[*block.below] && --above[*block.below] == 0) {
        leaves.emplace(catalog_.blocks()[*block.below].last_use, *block.below);
      }
    }
  }

  const Catalog& catalog_;
  const GarbageRules& rules_;
  std::vector<bool> goes_;                    // [blocks] as a whole
  std::map<size_t, std::set<size_t>> parts_;  // of blocks that stay: records that go
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
