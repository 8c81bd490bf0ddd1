#include "parallel/plan/record_report.h"

#include "core/base/wire.h"

namespace tandem::parallel {
namespace {

constexpr size_t kMostBlocks = 1 << 20;  // of a fetch

}  // namespace

std::vector<std::byte> EncodeRecordReport(const RecordReport& report) {
  core::WireWriter writer;
  writer.Number(static_cast<uint8_t>(report.kind));
  writer.Number(report.id);
  writer.Bool(report.safe);
  writer.Count(report.from.size());
  for (const kv_store::TierKind kind : report.from) writer.Number(static_cast<uint8_t>(kind));
  writer.Number(report.counts.put);
  writer.Number(report.counts.dropped);
  writer.Number(report.counts.refused);
  writer.Number(report.counts.fetched);
  writer.Number(report.counts.damaged);
  return writer.Take();
}

absl::StatusOr<RecordReport> DecodeRecordReport(std::span<const std::byte> bytes) {
  core::WireReader reader("record report", bytes);
  RecordReport report;
  const auto kind = reader.Number<uint8_t>();
  if (kind > static_cast<uint8_t>(RecordReport::Kind::kCounts)) {
    reader.Fail(InvalidArgument("record report: {} is no kind of report", kind));
  }
  report.kind = static_cast<RecordReport::Kind>(kind);
  report.id = reader.Number<uint64_t>();
  report.safe = reader.Bool();
  for (const uint8_t from : reader.Numbers<uint8_t>(kMostBlocks, "blocks")) {
    if (from > static_cast<uint8_t>(kv_store::TierKind::kRemote)) {
      reader.Fail(InvalidArgument("record report: {} is no kind of tier", from));
    }
    report.from.push_back(static_cast<kv_store::TierKind>(from));
  }
  report.counts.put = reader.Number<uint64_t>();
  report.counts.dropped = reader.Number<uint64_t>();
  report.counts.refused = reader.Number<uint64_t>();
  report.counts.fetched = reader.Number<uint64_t>();
  report.counts.damaged = reader.Number<uint64_t>();
  TANDEM_RETURN_IF_ERROR(reader.Finish());
  return report;
}

}  // namespace tandem::parallel
