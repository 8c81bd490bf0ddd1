#include "parallel/plan/step_plan_codec.h"

#include <cstring>

#include "core/base/wire.h"
#include "core/sampling/sampling_fields.h"

namespace tandem::parallel {

using core::AtMost;
using core::KindOf;

namespace {

// What a plan may hold at most; more is a corrupt plan.
constexpr size_t kMostSlots = 1 << 16;
constexpr size_t kMostTokens = 1 << 20;        // of one sequence in one step
constexpr size_t kMostHistory = 1 << 24;       // of a sequence that begins behind cached pages
constexpr size_t kMostTableChanges = 1 << 20;  // of one layer group of one sequence
constexpr size_t kMostGroups = 64;
constexpr size_t kMostMoves = 1 << 20;
constexpr size_t kMostSpilled = 1 << 20;  // blocks of a sequence
constexpr size_t kMostSaves = 1 << 20;
constexpr size_t kMostFetches = 1 << 16;  // begun or ended
constexpr size_t kMostFetchBlocks = 1 << 20;

/// Flags as the bits of a byte, the first one in bit 0.
template <typename Archive, typename... Flag>
void Bits(Archive& archive, Flag&... flags) {
  uint8_t bits = 0;
  int bit = 0;
  ((bits = static_cast<uint8_t>(bits | (flags ? 1 << bit : 0)), ++bit), ...);
  archive(bits);
  const int unknown = bits >> sizeof...(Flag) << sizeof...(Flag);
  archive.Require(unknown == 0, "unknown flags {:#x}", unknown);
  archive.WhenRead([&] {
    bit = 0;
    ((flags = (bits >> bit++ & 1) != 0), ...);
  });
}

}  // namespace

template <typename Archive>
void Fields(Archive& archive, OpenedSlot& opened) {
  archive(opened.slot, opened.candidates_per_rank, opened.first_token_index, opened.sampling,
          AtMost(opened.history, kMostHistory, "tokens of history"));
}

template <typename Archive>
void Fields(Archive& archive, BlockSave& save) {
  archive(save.hash, save.before, save.tenant, save.tokens,
          AtMost(save.blocks, kMostGroups, "blocks of a save"));
}

template <typename Archive>
void Fields(Archive& archive, BlockCopy& copy) {
  archive(copy.group, copy.from, copy.to);
}

template <typename Archive>
void Fields(Archive& archive, BlockLoad& load) {
  archive(load.fetch, load.index, AtMost(load.blocks, kMostGroups, "blocks of a load"));
}

template <typename Archive>
void Fields(Archive& archive, SpilledBlock& block) {
  archive(block.group, block.block, block.host);
}

template <typename Archive>
void Fields(Archive& archive, PageSpill& spill) {
  archive(AtMost(spill.blocks, kMostSpilled, "blocks of a spill"));
}

template <typename Archive>
void Fields(Archive& archive, PageReturn& back) {
  archive(back.id, AtMost(back.blocks, kMostSpilled, "blocks of a return"));
}

template <typename Archive>
void Fields(Archive& archive, FetchBlock& block) {
  archive(block.hash, block.tokens, block.groups);
}

template <typename Archive>
void Fields(Archive& archive, BlockFetch& fetch) {
  archive(fetch.id, AtMost(fetch.blocks, kMostFetchBlocks, "blocks of a fetch"));
}

template <typename Archive>
void Fields(Archive& archive, BlockChange& change) {
  archive(change.index, change.block);
}

template <typename Archive>
void Fields(Archive& archive, SequenceWork& work) {
  bool score_sampled = work.score == ScoredTokens::kSampled;
  bool score_all = work.score == ScoredTokens::kAll;
  archive(work.slot, work.start_position);
  Bits(archive, work.sample, work.gather, score_sampled, score_all);
  archive.Require(!score_sampled || !score_all, "flags contradict each other");
  archive.WhenRead([&] {
    work.score = score_all       ? ScoredTokens::kAll
                 : score_sampled ? ScoredTokens::kSampled
                                 : ScoredTokens::kNone;
  });
  archive(work.top, work.next_token);
  const auto changes_of_group = [](auto& each, std::vector<BlockChange>& changes) {
    each(AtMost(changes, kMostTableChanges, "table changes"));
  };
  archive(AtMost(work.tokens, kMostTokens, "tokens"), AtMost(work.drafts, kMostTokens, "drafts"),
          AtMost(work.table_changes, kMostGroups, "layer groups", changes_of_group));
}

template <typename Archive>
void Fields(Archive& archive, StepPlan& plan) {
  const auto kind_and_move = [](auto& each, PageMove& move) {
    each(KindOf(move, "page move"), move);
  };
  Bits(archive, plan.stop, plan.flush);
  archive(plan.epoch, plan.step, AtMost(plan.closed, kMostSlots, "closed slots"),
          AtMost(plan.opened, kMostSlots, "opened slots"), AtMost(plan.saves, kMostSaves, "saves"),
          AtMost(plan.moves, kMostMoves, "page moves", kind_and_move),
          AtMost(plan.ended_fetches, kMostFetches, "ended fetches"),
          AtMost(plan.fetches, kMostFetches, "fetches"),
          AtMost(plan.sequences, kMostSlots, "sequences"));
}

std::vector<std::byte> EncodeStepPlan(const StepPlan& plan) {
  core::WireWriter writer;
  writer(kStepPlanMagic, kStepPlanVersion, plan);
  writer(DigestOf(writer.bytes()));
  return writer.Take();
}

absl::StatusOr<StepPlan> DecodeStepPlan(std::span<const std::byte> bytes) {
  const size_t hash_size = sizeof(Digest);
  if (bytes.size() < hash_size) {
    return InvalidArgument("step plan: {} bytes are too few for a plan", bytes.size());
  }
  const auto body = bytes.first(bytes.size() - hash_size);
  core::WireReader reader("step plan", body);
  uint32_t magic = 0;
  uint16_t version = 0;
  reader(magic, version);
  if (magic != kStepPlanMagic) {
    return InvalidArgument("step plan: starts with {:#x}, expected {:#x}", magic, kStepPlanMagic);
  }
  if (version != kStepPlanVersion) {
    return InvalidArgument(
        "step plan: version {}, this program knows {}; start the same build on all ranks", version,
        kStepPlanVersion);
  }
  if (const Digest hash = DigestOf(body); hash != StepPlanHash(bytes)) {
    return InvalidArgument("step plan: hash is {}, expected {}: it was damaged on its way",
                           DigestText(hash), DigestText(StepPlanHash(bytes)));
  }
  StepPlan plan;
  reader(plan);
  TANDEM_RETURN_IF_ERROR(reader.Finish());
  return plan;
}

Digest StepPlanHash(std::span<const std::byte> encoded) {
  Digest hash{};
  if (encoded.size() >= hash.size()) {
    std::memcpy(hash.data(), encoded.data() + encoded.size() - hash.size(), hash.size());
  }
  return hash;
}

}  // namespace tandem::parallel
