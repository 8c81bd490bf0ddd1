#include "parallel/step_plan_codec.h"

#include <algorithm>
#include <cstring>

#include "parallel/sampling_codec.h"
#include "parallel/wire.h"

namespace tandem::parallel {
namespace {

constexpr uint8_t kStopFlag = 1;
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
  writer.Number<uint8_t>(plan.stop ? kStopFlag : 0);
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
  writer.Count(plan.copies.size());
  for (const BlockCopy& copy : plan.copies) {
    writer.Number(copy.group);
    writer.Number(copy.from);
    writer.Number(copy.to);
  }
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
  plan.stop = (ReadFlags(reader, kStopFlag) & kStopFlag) != 0;
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
  plan.copies.resize(reader.Count(limits.copies, 12, "block copies"));
  for (BlockCopy& copy : plan.copies) {
    copy.group = reader.Number<int32_t>();
    copy.from = reader.Number<core::BlockId>();
    copy.to = reader.Number<core::BlockId>();
  }
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
