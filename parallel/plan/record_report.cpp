#include "parallel/plan/record_report.h"

#include "core/base/wire.h"

namespace tandem::parallel {

using core::AtMost;
using core::UpTo;

template <typename Archive>
void Fields(Archive& archive, RecordReport& report) {
  constexpr size_t kMostBlocks = 1 << 20;  // of a fetch
  const auto kind_of_tier = [](auto& each, kv_store::TierKind& kind) {
    each(UpTo(kind, kv_store::TierKind::kRemote, "kind of tier"));
  };
  archive(UpTo(report.kind, RecordReport::Kind::kLoaded, "kind of report"), report.id, report.safe,
          AtMost(report.from, kMostBlocks, "blocks", kind_of_tier), report.counts);
}

std::vector<std::byte> EncodeRecordReport(const RecordReport& report) {
  return core::Encode(report);
}

absl::StatusOr<RecordReport> DecodeRecordReport(std::span<const std::byte> bytes) {
  return core::Decode<RecordReport>("record report", bytes);
}

}  // namespace tandem::parallel
