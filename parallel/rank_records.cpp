#include "parallel/rank_records.h"

#include <utility>

namespace tandem::parallel {

RankRecords::RankRecords(Options options, const core::KvView& view)
    : options_(std::move(options)), view_(view) {}

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
      tier, view_,
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

void RankRecords::Save(const StepPlan& plan) {
  for (const BlockSave& save : plan.saves) SaveBlock(save);
  if (plan.flush) writer_->Mark(plan.step);
}

void RankRecords::SaveBlock(const BlockSave& save) {
  const core::Range& heads = options_.records_own;
  size_t records = 0;
  int64_t bytes = 0;
  for (size_t g = 0; g < save.blocks.size(); ++g) {
    if (save.blocks[g] == core::kNoBlock) continue;
    records += static_cast<size_t>(heads.count);
    bytes +=
        heads.count * kv_store::RecordBytes(view_.geometry(), static_cast<int32_t>(g), save.tokens);
  }
  if (records == 0 || !writer_->Reserve(records, bytes)) return;
  std::vector<kv_store::TierRecord> encoded;
  for (size_t g = 0; g < save.blocks.size(); ++g) {
    if (save.blocks[g] == core::kNoBlock) continue;
    for (int64_t head = heads.begin; head < heads.end(); ++head) {
      const kv_store::RecordName name{.block = save.hash,
                                      .tokens = save.tokens,
                                      .kv_head = static_cast<int32_t>(head),
                                      .group = static_cast<int32_t>(g)};
      encoded.push_back({.key = kv_store::RecordKeyOf(options_.records.fingerprint, name),
                         .block = save.hash,
                         .before = save.before,
                         .tenant = save.tenant,
                         .bytes = kv_store::EncodeRecord(
                             options_.records.fingerprint, name, view_, save.blocks[g],
                             static_cast<int>(head - options_.kv_heads.begin))});
    }
  }
  writer_->Put(std::move(encoded));
}

void RankRecords::Fetch(const StepPlan& plan) {
  for (const FetchId fetch : plan.ended_fetches) reader_->End(fetch);
  for (const BlockFetch& fetch : plan.fetches) reader_->Fetch(fetch);
}

}  // namespace tandem::parallel
