#include "parallel/rank/rank_records.h"

#include <utility>

namespace tandem::parallel {
namespace {

// Of records that were put, for the next ones: about those of a step's.
constexpr size_t kUnusedBytes = size_t{16} << 20;

}  // namespace

RankRecords::RankRecords(const Options& options, const kv_store::PagePool& pool)
    : options_(options), pool_(pool), buffers_(kUnusedBytes) {}

RankRecords::~RankRecords() {
  silent_ = true;
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

absl::Status RankRecords::Save(const StepPlan& plan, ParallelFor parallel_for) {
  const core::Range& heads = options_.records_own;
  struct Task {
    const BlockSave* save = nullptr;
    size_t group = 0;
    int64_t head = 0;
  };
  std::vector<Task> tasks;
  std::vector<std::vector<kv_store::TierRecord>> encoded;  // [saves that have room][records]
  for (const BlockSave& save : plan.saves) {
    const size_t begin = tasks.size();
    int64_t bytes = 0;
    for (size_t g = 0; g < save.blocks.size(); ++g) {
      if (save.blocks[g] == core::kNoBlock) continue;
      bytes += heads.count *
               kv_store::RecordBytes(pool_.view().geometry(), static_cast<int32_t>(g), save.tokens);
      for (int64_t head = heads.begin; head < heads.end(); ++head) {
        tasks.push_back({.save = &save, .group = g, .head = head});
      }
    }
    const size_t records = tasks.size() - begin;
    if (records > 0 && writer_->Reserve(records, bytes)) {
      encoded.emplace_back(records);
    } else {
      tasks.resize(begin);
    }
  }
  std::vector<kv_store::TierRecord*> records;  // [tasks]
  for (auto& of_save : encoded) {
    for (kv_store::TierRecord& record : of_save) records.push_back(&record);
  }
  std::vector<absl::Status> copied(tasks.size());
  if (!tasks.empty()) {
    parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
      const auto at = static_cast<size_t>(i);
      auto record = Encode(*tasks[at].save, tasks[at].group, tasks[at].head);
      copied[at] = record.status();
      if (record.ok()) *records[at] = *std::move(record);
    });
  }
  for (absl::Status& status : copied) TANDEM_RETURN_IF_ERROR(std::move(status));
  for (auto& of_save : encoded) writer_->Put(of_save);
  if (plan.flush) writer_->Mark(plan.step);
  return absl::OkStatus();
}

absl::StatusOr<kv_store::TierRecord> RankRecords::Encode(const BlockSave& save, size_t group,
                                                         int64_t head) {
  const kv_store::Fingerprint& fingerprint = options_.records.fingerprint;
  const kv_store::RecordName name{.block = save.hash,
                                  .tokens = save.tokens,
                                  .kv_head = static_cast<int32_t>(head),
                                  .group = static_cast<int32_t>(group)};
  TANDEM_ASSIGN_OR_RETURN(
      std::vector<std::byte> bytes,
      kv_store::EncodeRecord(fingerprint, name, pool_, save.blocks[group],
                             static_cast<int>(head - options_.kv_heads.begin), buffers_.Take()));
  return kv_store::TierRecord{.key = kv_store::RecordKeyOf(fingerprint, name),
                              .block = save.hash,
                              .before = save.before,
                              .tenant = save.tenant,
                              .bytes = buffers_.Share(std::move(bytes))};
}

void RankRecords::Fetch(const StepPlan& plan) {
  for (const FetchId fetch : plan.ended_fetches) reader_->End(fetch);
  for (const BlockFetch& fetch : plan.fetches) reader_->Fetch(fetch);
}

}  // namespace tandem::parallel
