#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/base/progress.h"
#include "core/base/status.h"
#include "kv_store/records/record.h"
#include "kv_store/records/stored_names.h"
#include "kv_store/records/tier.h"

namespace tandem::kv_store {

/// How a record was found.
enum class RecordHealth : uint8_t {
  kUnread,  // its place and size are those of a record, its bytes were not looked at
  kGood,
  kDamaged,
  kOtherVersion,  // of a newer program; left alone
  kGone,          // it went while it was to be read
};

struct CatalogRecord {
  RecordKey key{};  // as stored
  int64_t bytes = 0;
  uint8_t tiers = 0;  // a bit each, as ListedRecord
  RecordHealth health = RecordHealth::kUnread;
  std::string problem;          // what is wrong, and in which tier; empty: nothing
  std::optional<size_t> model;  // in Catalog::models; nothing where that cannot be told
  int32_t kv_head = 0;
  int32_t group = 0;
  int32_t tokens = 0;
};

struct CatalogBlock {
  BlockHash stored{};  // the name that tiers know it by
  BlockHash stored_before{};
  uint64_t stored_tenant = 0;
  /// Of an encrypted block these are known once one of its records was read.
  bool known = false;
  BlockHash hash{};
  BlockHash before{};
  uint64_t tenant = 0;
  uint64_t last_use = 0;  // microseconds since 1970
  std::vector<CatalogRecord> records;
  std::optional<size_t> below;  // the block it stands on; nothing: the tenant's beginning, or gone
  std::vector<size_t> above;    // the blocks that stand on it

  int64_t bytes() const;
};

/// A model whose records are there, as its records say.
struct CatalogModel {
  Fingerprint fingerprint{};
  core::KvDtype dtype = core::KvDtype::kF16;
  int32_t head_dim = 0;
  std::map<int32_t, int32_t> layers;  // by layer group
  std::set<int32_t> state_groups;     // of these, that hold states
  int32_t segment = 0;                // tokens; a state stands behind a multiple; 0: none was seen
  std::set<int32_t> kv_heads;
};

/// All that the tiers of a host keep, block by block, and how it hangs together.
///
/// Of each model a block has pages (keys and values), a state, or both. A request goes on behind a
/// state whatever is before it: blocks before it may be absent, and then nothing tells where in a
/// text it stands. Of a model whose states are all gone nothing tells that it needs some.
/// Thread safety: none needed once it is read.
class Catalog {
 public:
  struct Options {
    /// Reads and checks every copy of every record; otherwise only what is needed to know which
    /// model each is of.
    bool reads_all = false;
    core::Progress progress = nullptr;
  };
  /// kFailedPrecondition if no record at all opens with the names' key: then the key is wrong, and
  /// not every record damaged. Errors of the tier are passed on.
  static absl::StatusOr<Catalog> Read(ListableTier& tier, const StoredNames& names,
                                      const Options& options);

  const std::vector<CatalogBlock>& blocks() const { return blocks_; }  // by stored hash
  const std::vector<CatalogModel>& models() const { return models_; }
  std::optional<size_t> Find(const BlockHash& stored) const;

  /// Whether the block, and all that it stands on, is there from its tenant's beginning on.
  bool IsAnchored(size_t block) const;
  /// Whether it has records of the model.
  bool Has(size_t block, size_t model) const;
  /// KV heads that are missing in layer groups of which other heads are there. A layer group that
  /// is missing as a whole does not count: behind a sliding window it is not needed.
  std::vector<std::pair<int32_t, int32_t>> Missing(size_t block,
                                                   size_t model) const;  // head, group
  /// Whether the model's pages of the block are there, whole and not damaged; and its state.
  bool HasWholePages(size_t block, size_t model) const;
  bool HasWholeState(size_t block, size_t model) const;
  /// Whether a request that begins like this could go on behind the block: it has a whole state, or
  /// whole pages and stands on a block that is usable, or on nothing. Where a segment ends, the
  /// pages are not enough.
  bool IsUsable(size_t block, size_t model) const;
  /// Whether a request may come to use anything of the block: it has a whole state, or whole pages
  /// and stands on a block of that kind, or on nothing. What is not is of no use on this host.
  bool IsReachable(size_t block, size_t model) const;
  /// The position of the block's first token; nothing where blocks before it are absent.
  std::optional<int64_t> FirstToken(size_t block) const { return first_tokens_[block]; }
  /// Tokens of the block's records of the model.
  int32_t Tokens(size_t block, size_t model) const;
  /// The blocks that this one stands on, and itself, in order, back to where one is absent.
  std::vector<size_t> ChainTo(size_t block) const;

 private:
  friend class CatalogReader;

  std::vector<CatalogBlock> blocks_;
  std::vector<CatalogModel> models_;
  std::unordered_map<BlockHash, size_t, BlockHashBits> index_;
  std::vector<bool> anchored_;                        // [blocks]
  std::vector<std::optional<int64_t>> first_tokens_;  // [blocks]
  std::vector<std::vector<bool>> usable_;             // [models][blocks]
  std::vector<std::vector<bool>> reachable_;          // [models][blocks]
};

}  // namespace tandem::kv_store
