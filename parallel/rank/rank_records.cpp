#include "parallel/rank/rank_records.h"

#include <utility>

namespace tandem::parallel {
namespace {

// Of records that were put, for the next ones: about those of a step's.
constexpr size_t kUnusedBytes = size_t{16} << 20;
// Of pages on their way to records, and of those on their way from them: enough for the blocks that
// a step of a prompt fills.
constexpr int64_t kStagedBytes = int64_t{64} << 20;

}  // namespace

absl::StatusOr<std::unique_ptr<RankRecords>> RankRecords::Create(const Options& options,
                                                                 const kv_store::PagePool& pool,
                                                                 PageTraffic& traffic) {
  TANDEM_ASSIGN_OR_RETURN(auto saving, PageStaging::Create(pool, kStagedBytes));
  std::unique_ptr<PageStaging> loading;
  if (pool.memory().copies_beside()) {
    TANDEM_ASSIGN_OR_RETURN(loading, PageStaging::Create(pool, kStagedBytes));
  }
  return std::unique_ptr<RankRecords>(
      new RankRecords(options, pool, traffic, std::move(saving), std::move(loading)));
}

RankRecords::RankRecords(const Options& options, const kv_store::PagePool& pool,
                         PageTraffic& traffic, std::unique_ptr<PageStaging> saving,
                         std::unique_ptr<PageStaging> loading)
    : options_(options),
      pool_(pool),
      traffic_(traffic),
      saving_(std::move(saving)),
      loading_(std::move(loading)),
      buffers_(kUnusedBytes) {}

RankRecords::~RankRecords() {
  silent_ = true;
  loader_.Stop();
  saver_.Stop();
  if (reader_) reader_->Stop();
  if (writer_) writer_->Stop();
}

void RankRecords::Listen(std::function<void(const RecordReport&)> on_report,
                         std::function<void(FetchId probe, SavedTokens saved)> on_probed) {
  const auto report = [this, tell = std::move(on_report)](RecordReport what) {
    if (silent_) return;
    what.rank = options_.rank;
    what.counts = counts();
    tell(what);
  };
  report_ = report;
  kv_store::Tier& tier = *options_.records.tier;
  reader_ = std::make_unique<RecordReader>(
      tier, pool_,
      RecordReader::Options{
          .fingerprint = options_.records.fingerprint,
          .kv_heads = options_.kv_heads,
          .on_fetched =
              [report](FetchId fetch, std::vector<kv_store::TierKind> from) {
                RecordReport fetched;
                fetched.kind = RecordReport::Kind::kFetched;
                fetched.id = fetch;
                fetched.from = std::move(from);
                report(std::move(fetched));
              },
          .on_probed =
              [this, tell = std::move(on_probed)](FetchId probe, SavedTokens saved) {
                if (!silent_) tell(probe, saved);
              }});
  writer_ = std::make_unique<RecordWriter>(
      tier, options_.records.save_bytes,
      [report](uint64_t step, bool safe) {
        RecordReport flushed;
        flushed.kind = RecordReport::Kind::kFlushed;
        flushed.id = step;
        flushed.safe = safe;
        report(std::move(flushed));
      },
      [report] { report(RecordReport()); });
}

RecordCounts RankRecords::counts() const {
  const RecordWriter::Counts written = writer_->counts();
  const RecordReader::Counts read = reader_->counts();
  return {.put = written.put,
          .dropped = written.dropped,
          .refused = written.refused,
          .fetched = read.fetched,
          .damaged = read.damaged};
}

absl::Status RankRecords::Save(const StepPlan& plan) {
  const core::KvGeometry& geometry = pool_.view().geometry();
  for (const BlockSave& save : plan.saves) {
    size_t records = 0;
    int64_t bytes = 0;
    for (size_t g = 0; g < save.blocks.size(); ++g) {
      if (save.blocks[g] == core::kNoBlock) continue;
      const auto heads = options_.records_own.count;
      records += static_cast<size_t>(heads);
      bytes += heads * kv_store::RecordBytes(geometry, static_cast<int32_t>(g), save.tokens);
    }
    if (records > 0 && writer_->Reserve(records, bytes)) TANDEM_RETURN_IF_ERROR(BeginSave(save));
  }
  if (plan.flush) {
    saver_.Push([this, step = plan.step] {
      if (!failed_) writer_->Mark(step);
    });
  }
  return absl::OkStatus();
}

absl::Status RankRecords::BeginSave(const BlockSave& save) {
  auto saving = std::make_shared<Saving>();
  saving->save = save;
  saving->staged = saving_->Take();
  saving->copies.resize(save.blocks.size());
  // What was begun is waited for in any case: it writes to the staging.
  absl::Status begun;
  for (size_t g = 0; g < save.blocks.size() && begun.ok(); ++g) {
    if (save.blocks[g] == core::kNoBlock) continue;
    auto copy = pool_.BeginCopy(core::CopyDirection::kToHost, g, save.blocks[g], saving_->pages(),
                                saving->staged);
    begun = copy.status();
    if (!copy.ok()) continue;
    saving->copies[g] = *std::move(copy);
    traffic_.Leaves({g, save.blocks[g]}, saving->copies[g]);
  }
  if (!begun.ok()) Failed(begun);
  saver_.Push([this, saving] { FinishSave(*saving); });
  return begun;
}

void RankRecords::FinishSave(const Saving& saving) {
  absl::Status copied;
  for (size_t g = 0; g < saving.copies.size(); ++g) {
    if (saving.copies[g] == nullptr) continue;
    copied.Update(saving.copies[g]->Wait());
    traffic_.Left({g, saving.save.blocks[g]}, saving.copies[g]);
  }
  auto records = copied.ok() ? RecordsOf(saving) : copied;
  saving_->Return(saving.staged);
  if (!Failed(records.status())) writer_->Put(*records);
}

absl::StatusOr<std::vector<kv_store::TierRecord>> RankRecords::RecordsOf(const Saving& saving) {
  std::vector<kv_store::TierRecord> records;
  const core::Range& heads = options_.records_own;
  for (size_t g = 0; g < saving.save.blocks.size(); ++g) {
    if (saving.save.blocks[g] == core::kNoBlock) continue;
    for (int64_t head = heads.begin; head < heads.end(); ++head) {
      TANDEM_ASSIGN_OR_RETURN(kv_store::TierRecord record, Encode(saving, g, head));
      records.push_back(std::move(record));
    }
  }
  return records;
}

absl::StatusOr<kv_store::TierRecord> RankRecords::Encode(const Saving& saving, size_t group,
                                                         int64_t head) {
  const kv_store::Fingerprint& fingerprint = options_.records.fingerprint;
  const BlockSave& save = saving.save;
  const kv_store::RecordName name{.block = save.hash,
                                  .tokens = save.tokens,
                                  .kv_head = static_cast<int32_t>(head),
                                  .group = static_cast<int32_t>(group)};
  TANDEM_ASSIGN_OR_RETURN(
      std::vector<std::byte> bytes,
      kv_store::EncodeRecord(fingerprint, name, saving_->pages(), saving.staged,
                             static_cast<int>(head - options_.kv_heads.begin), buffers_.Take()));
  return kv_store::TierRecord{.key = kv_store::RecordKeyOf(fingerprint, name),
                              .block = save.hash,
                              .before = save.before,
                              .tenant = save.tenant,
                              .bytes = buffers_.Share(std::move(bytes))};
}

absl::Status RankRecords::Load(std::span<const PageMove> loads, ParallelFor parallel_for) {
  std::vector<Loading> all;
  for (const PageMove& move : loads) {
    const auto& load = std::get<BlockLoad>(move);
    TANDEM_ASSIGN_OR_RETURN(RecordReader::Fill fill, reader_->Find(load));
    Loading& loading = all.emplace_back();
    loading.fetch = load.fetch;
    loading.blocks = load.blocks;
    loading.fill = std::move(fill);
  }
  if (loading_ != nullptr) {
    LoadBeside(std::move(all));
    return absl::OkStatus();
  }
  // Most of it is pages' first touch, which several threads do faster.
  std::vector<absl::Status> loaded(all.size());
  parallel_for(static_cast<int64_t>(all.size()), [&](int64_t i) {
    const auto at = static_cast<size_t>(i);
    loaded[at] = all[at].fill(pool_, all[at].blocks);
  });
  for (absl::Status& status : loaded) TANDEM_RETURN_IF_ERROR(std::move(status));
  return absl::OkStatus();
}

void RankRecords::LoadBeside(std::vector<Loading> loads) {
  for (const Loading& loading : loads) {
    for (size_t g = 0; g < loading.blocks.size(); ++g) {
      if (loading.blocks[g] != core::kNoBlock) traffic_.Fills({g, loading.blocks[g]});
    }
  }
  const auto all = std::make_shared<std::vector<Loading>>(std::move(loads));
  loader_.Push([this, all] {
    size_t finished = 0;
    absl::Status status;
    // Records are unpacked while those before are copied.
    for (Loading& loading : *all) {
      std::optional<core::BlockId> staged = loading_->TryTake();
      while (!staged) {
        status.Update(FinishLoad((*all)[finished++]));
        staged = loading_->TryTake();
      }
      loading.staged = *staged;
      if (status.ok()) status = BeginLoad(loading);
    }
    while (finished < all->size()) status.Update(FinishLoad((*all)[finished++]));
    if (Failed(status)) return;
    for (size_t i = 0; i < all->size(); ++i) {
      const bool last = i + 1 == all->size() || (*all)[i + 1].fetch != (*all)[i].fetch;
      if (last) ReportLoaded((*all)[i].fetch);
    }
  });
}

absl::Status RankRecords::BeginLoad(Loading& loading) {
  std::vector<core::BlockId> into(loading.blocks.size(), core::kNoBlock);
  for (size_t g = 0; g < into.size(); ++g) {
    if (loading.blocks[g] != core::kNoBlock) into[g] = loading.staged;
  }
  TANDEM_RETURN_IF_ERROR(loading.fill(loading_->pages(), into));
  for (size_t g = 0; g < into.size(); ++g) {
    if (into[g] == core::kNoBlock) continue;
    TANDEM_ASSIGN_OR_RETURN(auto copy,
                            pool_.BeginCopy(core::CopyDirection::kFromHost, g, loading.blocks[g],
                                            loading_->pages(), into[g]));
    if (copy != nullptr) loading.copies.push_back(std::move(copy));
  }
  return absl::OkStatus();
}

absl::Status RankRecords::FinishLoad(const Loading& loading) {
  absl::Status status;
  for (const auto& copy : loading.copies) status.Update(copy->Wait());
  // Before steps may go on with these blocks, they must know what has failed.
  Failed(status);
  for (size_t g = 0; g < loading.blocks.size(); ++g) {
    if (loading.blocks[g] != core::kNoBlock) traffic_.Filled({g, loading.blocks[g]});
  }
  loading_->Return(loading.staged);
  return status;
}

bool RankRecords::Failed(const absl::Status& status) {
  if (status.ok()) return failed_;
  failed_ = true;
  traffic_.Fail(status);
  return true;
}

void RankRecords::ReportLoaded(FetchId fetch) {
  RecordReport loaded;
  loaded.kind = RecordReport::Kind::kLoaded;
  loaded.id = fetch;
  report_(std::move(loaded));
}

void RankRecords::Fetch(const StepPlan& plan) {
  for (const FetchId fetch : plan.ended_fetches) reader_->End(fetch);
  for (const BlockFetch& fetch : plan.fetches) reader_->Fetch(fetch);
}

}  // namespace tandem::parallel
