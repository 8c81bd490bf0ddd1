#include <algorithm>
#include <array>
#include <utility>

#include "kv_store/catalog/catalog.h"

namespace tandem::kv_store {
namespace {

constexpr size_t kPageBlocks = 1024;
constexpr std::array<TierKind, 3> kTiers = {TierKind::kHost, TierKind::kDisk, TierKind::kRemote};

bool IsIn(const CatalogRecord& record, TierKind tier) {
  return (record.tiers & TierBit(tier)) != 0;
}

}  // namespace

/// Builds a catalog.
class CatalogReader {
 public:
  CatalogReader(ListableTier& tier, const StoredNames& names, const Catalog::Options& options)
      : tier_(tier), names_(names), options_(options) {}

  absl::StatusOr<Catalog> Read() {
    TANDEM_RETURN_IF_ERROR(List());
    for (size_t i = 0; i < catalog_.blocks_.size(); ++i) {
      CatalogBlock& block = catalog_.blocks_[i];
      if (options_.reads_all) ReadAll(block);
      Identify(block);
      if (options_.progress) {
        TANDEM_RETURN_IF_ERROR(options_.progress(
            static_cast<double>(i + 1) / static_cast<double>(catalog_.blocks_.size()),
            options_.reads_all ? "checking KV" : "reading KV"));
      }
    }
    if (opened_ == 0 && unopened_ > 0) return NoneOpens();
    // A damaged record is known by its key once others have told which KV heads there are.
    for (CatalogBlock& block : catalog_.blocks_) {
      if (block.known) Match(block);
    }
    Connect();
    return std::move(catalog_);
  }

 private:
  absl::Status List() {
    std::optional<BlockHash> after;
    for (;;) {
      TANDEM_ASSIGN_OR_RETURN(std::vector<ListedBlock> page, tier_.List(after, kPageBlocks));
      if (page.empty()) break;
      for (ListedBlock& listed : page) {
        if (after && listed.block <= *after) return Internal("KV agent: its list goes backwards");
        after = listed.block;
        CatalogBlock& block = catalog_.blocks_.emplace_back();
        block.stored = listed.block;
        block.stored_before = listed.before;
        block.stored_tenant = listed.tenant;
        block.last_use = listed.last_use;
        if (!names_.encrypted()) {
          block.known = true;
          block.hash = listed.block;
          block.before = listed.before;
          block.tenant = listed.tenant;
        }
        for (const ListedRecord& record : listed.records) {
          block.records.push_back({.key = record.key,
                                   .bytes = record.bytes,
                                   .tiers = record.tiers,
                                   .problem = {},
                                   .model = {}});
        }
      }
    }
    return absl::OkStatus();
  }

  /// Every copy of every record of the block.
  void ReadAll(CatalogBlock& block) {
    for (const TierKind tier : kTiers) {
      std::vector<RecordKey> keys;
      std::vector<CatalogRecord*> records;
      for (CatalogRecord& record : block.records) {
        if (!IsIn(record, tier)) continue;
        keys.push_back(record.key);
        records.push_back(&record);
      }
      if (keys.empty()) continue;
      std::vector<PeekedRecord> peeked = tier_.Peek(tier, keys);
      for (size_t i = 0; i < records.size(); ++i) {
        Examine(block, *records[i], tier, std::move(peeked[i]));
      }
    }
  }

  void ReadOne(CatalogBlock& block, CatalogRecord& record) {
    for (const TierKind tier : kTiers) {
      if (!IsIn(record, tier)) continue;
      std::vector<PeekedRecord> peeked = tier_.Peek(tier, std::span(&record.key, 1));
      Examine(block, record, tier, std::move(peeked.front()));
      return;
    }
    record.health = RecordHealth::kGone;
  }

  static void Blame(CatalogRecord& record, TierKind tier, const absl::Status& status) {
    const bool other = absl::IsFailedPrecondition(status);
    if (record.health != RecordHealth::kDamaged) {
      record.health = other ? RecordHealth::kOtherVersion : RecordHealth::kDamaged;
    }
    record.problem = fmt::format("{}: {}", TierName(tier), Message(status));
  }

  void Examine(CatalogBlock& block, CatalogRecord& record, TierKind tier, PeekedRecord peeked) {
    if (peeked.state == PeekedRecord::State::kMissing) {
      if (record.health == RecordHealth::kUnread) record.health = RecordHealth::kGone;
      return;
    }
    if (peeked.state == PeekedRecord::State::kUnreadable) {
      Blame(record, tier, absl::DataLossError("its bytes cannot be read back from the disk"));
      return;
    }
    const absl::Status status = Check(block, record, std::move(peeked.bytes));
    if (!status.ok()) {
      Blame(record, tier, status);
    } else if (record.health != RecordHealth::kDamaged) {
      record.health = RecordHealth::kGood;
    }
  }

  /// Takes what the bytes say of the record and its block, if they are whole and in their place.
  absl::Status Check(CatalogBlock& block, CatalogRecord& record, SharedBytes bytes) {
    auto opened = names_.Open(record.key, std::move(bytes));
    if (!opened.ok()) {
      ++unopened_;
      return opened.status();
    }
    const absl::StatusOr<RecordHeader> header = ParseRecord(opened->bytes);
    if (header.ok()) {
      ++opened_;
    } else if (!names_.encrypted() && EncryptedBox::LooksEncrypted(opened->bytes)) {
      ++unopened_;
    }
    TANDEM_RETURN_IF_ERROR(header.status());
    if (names_.encrypted()) {
      if (names_.Block(opened->block) != block.stored ||
          names_.Block(opened->before) != block.stored_before) {
        return absl::DataLossError("it lies in another block's place");
      }
      block.known = true;
      block.hash = opened->block;
      block.before = opened->before;
      block.tenant = opened->tenant;
    }
    if (header->name.block != block.hash ||
        names_.Key(RecordKeyOf(header->fingerprint, header->name)) != record.key) {
      return absl::DataLossError("it is another record than the one that belongs there");
    }
    TANDEM_ASSIGN_OR_RETURN(record.model, ModelOf(*header));
    record.kv_head = header->name.kv_head;
    record.group = header->name.group;
    record.tokens = header->name.tokens;
    return absl::OkStatus();
  }

  absl::StatusOr<size_t> ModelOf(const RecordHeader& header) {
    std::vector<CatalogModel>& models = catalog_.models_;
    auto place = std::find_if(models.begin(), models.end(), [&](const CatalogModel& model) {
      return model.fingerprint == header.fingerprint;
    });
    if (place == models.end()) {
      place = models.insert(models.end(), {.fingerprint = header.fingerprint,
                                           .dtype = header.dtype,
                                           .head_dim = header.head_dim,
                                           .layers = {},
                                           .state_groups = {},
                                           .segment = 0,
                                           .kv_heads = {}});
    }
    const auto layers = place->layers.try_emplace(header.name.group, header.layers).first;
    const bool other_segment =
        header.state && place->segment > 0 && place->segment != header.state->segment;
    if (layers->second != header.layers || place->head_dim != header.head_dim ||
        place->dtype != header.dtype || other_segment) {
      return absl::DataLossError("its shape is not that of the model's other records");
    }
    if (header.state) {
      place->state_groups.insert(header.name.group);
      place->segment = header.state->segment;
    }
    place->kv_heads.insert(header.name.kv_head);
    return static_cast<size_t>(place - models.begin());
  }

  /// Finds out which record each one is, reading as few as need be.
  void Identify(CatalogBlock& block) {
    const auto is_open = [](const CatalogRecord& record) {
      return record.health == RecordHealth::kUnread && !record.model;
    };
    for (;;) {
      if (block.known) Match(block);
      const auto unknown = std::find_if(block.records.begin(), block.records.end(), is_open);
      if (unknown == block.records.end()) return;
      ReadOne(block, *unknown);
    }
  }

  /// A record's key follows from its block and what it is of.
  void Match(CatalogBlock& block) {
    std::unordered_map<RecordKey, CatalogRecord*, BlockHashBits> open;
    for (CatalogRecord& record : block.records) {
      if (!record.model) open.emplace(record.key, &record);
    }
    for (size_t m = 0; m < catalog_.models_.size(); ++m) {
      const CatalogModel& model = catalog_.models_[m];
      for (const auto& [group, layers] : model.layers) {
        for (const int32_t head : model.kv_heads) {
          if (open.empty()) return;
          const RecordName name{.block = block.hash, .kv_head = head, .group = group};
          const auto found = open.find(names_.Key(RecordKeyOf(model.fingerprint, name)));
          if (found == open.end()) continue;
          CatalogRecord& record = *found->second;
          open.erase(found);
          record.model = m;
          record.kv_head = head;
          record.group = group;
          record.tokens = model.state_groups.contains(group)
                              ? core::kPageTokens
                              : TokensOf(model, layers, record.bytes);
        }
      }
    }
  }

  int32_t TokensOf(const CatalogModel& model, int32_t layers, int64_t bytes) const {
    const auto overhead = static_cast<int64_t>(
        kRecordHeaderBytes + (names_.encrypted() ? StoredNames::kEncryptionOverhead : 0));
    const int64_t token = 2LL * layers * core::KvVectorBytes(model.dtype, model.head_dim);
    const int64_t tokens = token > 0 ? (bytes - overhead) / token : 0;
    return static_cast<int32_t>(std::clamp<int64_t>(tokens, 0, core::kPageTokens));
  }

  absl::Status NoneOpens() const {
    return names_.encrypted() ? FailedPrecondition(
                                    "none of {} KV records opens with this --state-key: the "
                                    "directory was made with another one, or without any",
                                    unopened_)
                              : FailedPrecondition(
                                    "{} KV records are encrypted, and none is not: give the "
                                    "--state-key with which the directory was made",
                                    unopened_);
  }

  void Connect() {
    std::vector<CatalogBlock>& blocks = catalog_.blocks_;
    for (size_t i = 0; i < blocks.size(); ++i) catalog_.index_.emplace(blocks[i].stored, i);
    catalog_.anchored_.assign(blocks.size(), false);
    catalog_.first_tokens_.assign(blocks.size(), std::nullopt);
    std::vector<size_t> order;
    for (size_t i = 0; i < blocks.size(); ++i) {
      CatalogBlock& block = blocks[i];
      block.below = catalog_.Find(block.stored_before);
      if (block.below == i) block.below.reset();
      if (block.below) {
        blocks[*block.below].above.push_back(i);
        continue;
      }
      order.push_back(i);
      const bool begins = block.known && block.before == TenantHash(block.tenant);
      if (begins) catalog_.first_tokens_[i] = 0;
      catalog_.anchored_[i] = begins || (!block.known && HasOtherVersion(block));
    }
    for (size_t next = 0; next < order.size(); ++next) {
      const std::vector<size_t>& above = blocks[order[next]].above;
      for (const size_t i : above) {
        catalog_.anchored_[i] = catalog_.anchored_[order[next]];
        if (const auto first = catalog_.first_tokens_[order[next]]) {
          catalog_.first_tokens_[i] = *first + core::kPageTokens;
        }
      }
      order.insert(order.end(), above.begin(), above.end());
    }
    for (size_t m = 0; m < catalog_.models_.size(); ++m) Judge(m, order);
  }

  /// What of a model is usable and reachable. order: what a block stands on comes before it.
  void Judge(size_t model, const std::vector<size_t>& order) {
    const size_t count = catalog_.blocks_.size();
    std::vector<bool>& usable = catalog_.usable_.emplace_back(count, false);
    std::vector<bool>& reachable = catalog_.reachable_.emplace_back(count, false);
    const int64_t segment = catalog_.models_[model].segment;
    std::vector<int64_t> ends(count, 0);  // tokens behind a place where a segment begins
    for (const size_t i : order) {
      const std::optional<size_t>& below = catalog_.blocks_[i].below;
      const bool begins = !below && catalog_.anchored_[i];
      const bool pages = catalog_.HasWholePages(i, model);
      const bool state = catalog_.HasWholeState(i, model);
      ends[i] = state ? 0 : (below ? ends[*below] : 0) + catalog_.Tokens(i, model);
      const bool needs_state = segment > 0 && ends[i] % segment == 0;
      usable[i] = state || (pages && !needs_state && (begins || (below && usable[*below])));
      reachable[i] = state || (pages && (begins || (below && reachable[*below])));
    }
  }

  /// A newer program's records do not tell us where they stand.
  static bool HasOtherVersion(const CatalogBlock& block) {
    return std::any_of(block.records.begin(), block.records.end(), [](const CatalogRecord& one) {
      return one.health == RecordHealth::kOtherVersion;
    });
  }

  ListableTier& tier_;
  const StoredNames& names_;
  const Catalog::Options& options_;
  Catalog catalog_;
  int64_t opened_ = 0;    // records that were read
  int64_t unopened_ = 0;  // and those that are encrypted, with another key
};

absl::StatusOr<Catalog> Catalog::Read(ListableTier& tier, const StoredNames& names,
                                      const Options& options) {
  return CatalogReader(tier, names, options).Read();
}

}  // namespace tandem::kv_store
