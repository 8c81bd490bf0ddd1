#include "parallel/rank/spilled_pages.h"

#include <algorithm>
#include <utility>

namespace tandem::parallel {
namespace {

// Blocks whose copies are one: a step that needs one of them waits for no more than these.
constexpr size_t kBlocksTogether = 8;

}  // namespace

absl::StatusOr<std::unique_ptr<SpilledPages>> SpilledPages::Create(
    const kv_store::PagePool& pool, const std::vector<int64_t>& blocks, PageTraffic& traffic) {
  auto host = kv_store::PagePool::Create(pool.memory().host(), pool.view().geometry(), blocks);
  if (!host.ok()) {
    return ResourceExhausted("the host tier of the KV cache: {}; give less with --kv-spill-memory",
                             Message(host.status()));
  }
  return std::unique_ptr<SpilledPages>(new SpilledPages(pool, *std::move(host), traffic));
}

SpilledPages::~SpilledPages() {
  silent_ = true;
  spills_.Stop();
  returns_.Stop();
}

absl::StatusOr<std::shared_ptr<SpilledPages::Begun>> SpilledPages::Begin(
    core::CopyDirection direction, std::vector<SpilledBlock> blocks) {
  auto begun = std::make_shared<Begun>();
  begun->blocks = std::move(blocks);
  for (size_t first = 0; first < begun->blocks.size(); first += kBlocksTogether) {
    const size_t end = std::min(first + kBlocksTogether, begun->blocks.size());
    std::vector<core::CopyRun> runs;
    for (size_t i = first; i < end; ++i) {
      const SpilledBlock& at = begun->blocks[i];
      const auto group = static_cast<size_t>(at.group);
      runs.push_back({.device = pool_.Block(group, at.block),
                      .host = host_.Block(group, at.host),
                      .bytes = static_cast<size_t>(pool_.view().geometry().BlockBytes(group))});
    }
    TANDEM_ASSIGN_OR_RETURN(const auto copy, pool_.memory().BeginCopy(direction, runs));
    begun->copies.resize(end, copy);
  }
  return begun;
}

bool SpilledPages::Finish(const Begun& begun) {
  absl::Status status;
  for (const auto& copy : begun.copies) {
    if (copy != nullptr) status.Update(copy->Wait());
  }
  if (!status.ok()) traffic_.Fail(status);
  return status.ok();
}

absl::Status SpilledPages::Spill(const PageSpill& spill) {
  TANDEM_ASSIGN_OR_RETURN(const auto begun, Begin(core::CopyDirection::kToHost, spill.blocks));
  for (size_t i = 0; i < begun->blocks.size(); ++i) {
    const SpilledBlock& at = begun->blocks[i];
    traffic_.Leaves({static_cast<size_t>(at.group), at.block}, begun->copies[i]);
  }
  spills_.Push([this, begun] {
    Finish(*begun);
    for (size_t i = 0; i < begun->blocks.size(); ++i) {
      const SpilledBlock& at = begun->blocks[i];
      traffic_.Left({static_cast<size_t>(at.group), at.block}, begun->copies[i]);
    }
  });
  return absl::OkStatus();
}

absl::Status SpilledPages::Return(const PageReturn& back) {
  TANDEM_ASSIGN_OR_RETURN(const auto begun, Begin(core::CopyDirection::kFromHost, back.blocks));
  if (!pool_.memory().copies_beside()) return absl::OkStatus();
  for (const SpilledBlock& at : begun->blocks) {
    traffic_.Fills({static_cast<size_t>(at.group), at.block});
  }
  returns_.Push([this, begun, id = back.id] {
    const bool good = Finish(*begun);
    for (const SpilledBlock& at : begun->blocks) {
      traffic_.Filled({static_cast<size_t>(at.group), at.block});
    }
    if (!good || silent_) return;
    RecordReport report;
    report.kind = RecordReport::Kind::kLoaded;
    report.id = id;
    on_report_(report);
  });
  return absl::OkStatus();
}

}  // namespace tandem::parallel
