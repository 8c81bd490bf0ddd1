#include "parallel/plan/step_plan_codec.h"

#include <algorithm>
#include <cstring>

#include "core/base/wire.h"
#include "parallel/plan/sampling_codec.h"

namespace tandem::parallel {
namespace {

using core::WireReader;
using core::WireWriter;

constexpr uint8_t kStopFlag = 1;
constexpr uint8_t kFlushFlag = 2;
constexpr uint8_t kSampleFlag = 1;
constexpr uint8_t kGatherSampledFlag = 2;
constexpr uint8_t kGatherAllFlag = 4;

uint8_t FlagsOf(const SequenceWork& work) {
  uint8_t flags = work.sample ? kSampleFlag : 0;
  if (work.gather == GatherLogits::kSampled) flags |= kGatherSampledFlag;
  if (work.gather == GatherLogits::kAll) flags |= kGatherAllFlag;
  return flags;
}

void WriteWork(const SequenceWork& work, WireWriter& writer) {
  writer.Number(work.slot);
  writer.Number(work.start_position);
  writer.Number(FlagsOf(work));
  writer.Numbers(std::span(work.tokens));
  writer.Numbers(std::span(work.drafts));
  writer.Count(work.table_changes.size());
  for (const auto& changes : work.table_changes) {
    writer.Count(changes.size());
    for (const BlockChange& change : changes) {
      writer.Number(change.index);
      writer.Number(change.block);
    }
  }
}

uint8_t ReadFlags(WireReader& reader, uint8_t known) {
  const auto flags = reader.Number<uint8_t>();
  if ((flags & ~known) != 0) {
    reader.Fail(InvalidArgument("step plan: unknown flags {:#x}", flags & ~known));
  }
  return flags;
}

void WriteHash(const kv_store::BlockHash& hash, WireWriter& writer) {
  writer.Raw(std::as_bytes(std::span(hash)));
}

kv_store::BlockHash ReadHash(WireReader& reader) {
  kv_store::BlockHash hash{};
  const std::vector<std::byte> bytes = reader.Raw(hash.size());
  if (bytes.size() == hash.size()) std::memcpy(hash.data(), bytes.data(), hash.size());
  return hash;
}

void WriteSave(const BlockSave& save, WireWriter& writer) {
  WriteHash(save.hash, writer);
  WriteHash(save.before, writer);
  writer.Number(save.tenant);
  writer.Number(save.tokens);
  writer.Numbers(std::span(save.blocks));
}

BlockSave ReadSave(WireReader& reader, const StepPlanLimits& limits) {
  BlockSave save;
  save.hash = ReadHash(reader);
  save.before = ReadHash(reader);
  save.tenant = reader.Number<uint64_t>();
  save.tokens = reader.Number<int32_t>();
  save.blocks = reader.Numbers<core::BlockId>(limits.groups, "blocks of a save");
  return save;
}

void WriteMove(const PageMove& move, WireWriter& writer) {
  writer.Number(static_cast<uint8_t>(move.index()));
  if (const auto* copy = std::get_if<BlockCopy>(&move)) {
    writer.Number(copy->group);
    writer.Number(copy->from);
    writer.Number(copy->to);
  } else if (const auto* load = std::get_if<BlockLoad>(&move)) {
    writer.Number(load->fetch);
    writer.Number(load->index);
    writer.Numbers(std::span(load->blocks));
  }
}

PageMove ReadMove(WireReader& reader, const StepPlanLimits& limits) {
  const auto kind = reader.Number<uint8_t>();
  if (kind == 0) {
    BlockCopy copy;
    copy.group = reader.Number<int32_t>();
    copy.from = reader.Number<core::BlockId>();
    copy.to = reader.Number<core::BlockId>();
    return copy;
  }
  if (kind != 1) reader.Fail(InvalidArgument("step plan: {} is no kind of page move", kind));
  BlockLoad load;
  load.fetch = reader.Number<FetchId>();
  load.index = reader.Number<int32_t>();
  load.blocks = reader.Numbers<core::BlockId>(limits.groups, "blocks of a load");
  return load;
}

void WriteFetch(const BlockFetch& fetch, WireWriter& writer) {
  writer.Number(fetch.id);
  writer.Count(fetch.blocks.size());
  for (const FetchBlock& block : fetch.blocks) {
    WriteHash(block.hash, writer);
    writer.Number(block.tokens);
    writer.Number(block.groups);
  }
}

BlockFetch ReadFetch(WireReader& reader, const StepPlanLimits& limits) {
  BlockFetch fetch;
  fetch.id = reader.Number<FetchId>();
  fetch.blocks.resize(reader.Count(limits.fetch_blocks, 40, "blocks of a fetch"));
  for (FetchBlock& block : fetch.blocks) {
    block.hash = ReadHash(reader);
    block.tokens = reader.Number<int32_t>();
    block.groups = reader.Number<uint32_t>();
  }
  return fetch;
}

SequenceWork ReadWork(WireReader& reader, const StepPlanLimits& limits) {
  SequenceWork work;
  work.slot = reader.Number<int32_t>();
  work.start_position = reader.Number<int32_t>();
  const uint8_t flags = ReadFlags(reader, kSampleFlag | kGatherSampledFlag | kGatherAllFlag);
  work.sample = (flags & kSampleFlag) != 0;
  if ((flags & kGatherSampledFlag) != 0) work.gather = GatherLogits::kSampled;
  if ((flags & kGatherAllFlag) != 0) work.gather = GatherLogits::kAll;
  if (FlagsOf(work) != flags) {
    reader.Fail(InvalidArgument("step plan: flags {:#x} contradict each other", flags));
  }
  work.tokens = reader.Numbers<int32_t>(limits.tokens, "tokens");
  work.drafts = reader.Numbers<int32_t>(limits.tokens, "drafts");
  work.table_changes.resize(reader.Count(limits.groups, 4, "layer groups"));
  for (auto& changes : work.table_changes) {
    changes.resize(reader.Count(limits.table_changes, 8, "table changes"));
    for (BlockChange& change : changes) {
      change.index = reader.Number<int32_t>();
      change.block = reader.Number<core::BlockId>();
    }
  }
  return work;
}

}  // namespace

std::vector<std::byte> EncodeStepPlan(const StepPlan& plan) {
  WireWriter writer;
  writer.Number(kStepPlanMagic);
  writer.Number(kStepPlanVersion);
  writer.Number(static_cast<uint8_t>((plan.stop ? kStopFlag : 0) | (plan.flush ? kFlushFlag : 0)));
  writer.Number(plan.epoch);
  writer.Number(plan.step);
  writer.Numbers(std::span(plan.closed));
  writer.Count(plan.opened.size());
  for (const OpenedSlot& opened : plan.opened) {
    writer.Number(opened.slot);
    writer.Number(opened.candidates_per_rank);
    writer.Number(opened.first_token_index);
    WriteSampling(opened.sampling, writer);
    writer.Numbers(std::span(opened.history));
  }
  writer.Count(plan.saves.size());
  for (const BlockSave& save : plan.saves) WriteSave(save, writer);
  writer.Count(plan.moves.size());
  for (const PageMove& move : plan.moves) WriteMove(move, writer);
  writer.Numbers(std::span(plan.ended_fetches));
  writer.Count(plan.fetches.size());
  for (const BlockFetch& fetch : plan.fetches) WriteFetch(fetch, writer);
  writer.Count(plan.sequences.size());
  for (const SequenceWork& work : plan.sequences) WriteWork(work, writer);
  const Digest hash = DigestOf(writer.bytes());
  writer.Raw(std::as_bytes(std::span(hash)));
  return writer.Take();
}

absl::StatusOr<StepPlan> DecodeStepPlan(std::span<const std::byte> bytes) {
  const StepPlanLimits limits;
  const size_t hash_size = sizeof(Digest);
  if (bytes.size() < hash_size) {
    return InvalidArgument("step plan: {} bytes are too few for a plan", bytes.size());
  }
  const auto body = bytes.first(bytes.size() - hash_size);
  WireReader reader("step plan", body);
  const auto magic = reader.Number<uint32_t>();
  if (magic != kStepPlanMagic) {
    return InvalidArgument("step plan: starts with {:#x}, expected {:#x}", magic, kStepPlanMagic);
  }
  const auto version = reader.Number<uint16_t>();
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
  const uint8_t flags = ReadFlags(reader, kStopFlag | kFlushFlag);
  plan.stop = (flags & kStopFlag) != 0;
  plan.flush = (flags & kFlushFlag) != 0;
  plan.epoch = reader.Number<uint64_t>();
  plan.step = reader.Number<uint64_t>();
  plan.closed = reader.Numbers<SlotId>(limits.slots, "closed slots");
  plan.opened.resize(reader.Count(limits.slots, 16, "opened slots"));
  for (OpenedSlot& opened : plan.opened) {
    opened.slot = reader.Number<int32_t>();
    opened.candidates_per_rank = reader.Number<int32_t>();
    opened.first_token_index = reader.Number<uint64_t>();
    opened.sampling = ReadSampling(reader);
    opened.history = reader.Numbers<int32_t>(limits.tokens, "tokens of history");
  }
  plan.saves.resize(reader.Count(limits.saves, 80, "saves"));
  for (BlockSave& save : plan.saves) save = ReadSave(reader, limits);
  plan.moves.resize(reader.Count(limits.moves, 13, "page moves"));
  for (PageMove& move : plan.moves) move = ReadMove(reader, limits);
  plan.ended_fetches = reader.Numbers<FetchId>(limits.fetches, "ended fetches");
  plan.fetches.resize(reader.Count(limits.fetches, 12, "fetches"));
  for (BlockFetch& fetch : plan.fetches) fetch = ReadFetch(reader, limits);
  plan.sequences.resize(reader.Count(limits.slots, 17, "sequences"));
  for (SequenceWork& work : plan.sequences) work = ReadWork(reader, limits);
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
