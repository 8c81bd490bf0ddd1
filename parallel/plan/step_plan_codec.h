#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "core/base/status.h"
#include "parallel/plan/digest.h"
#include "parallel/plan/step_plan.h"

namespace tandem::parallel {

inline constexpr uint32_t kStepPlanMagic = 0x50535454;  // "TTSP" in little endian
inline constexpr uint16_t kStepPlanVersion = 7;

/// A plan as it travels, little endian throughout:
///   magic u32, version u16, flags u8 (bit 0 stop, bit 1 flush), epoch u64, step u64
///   closed:    count u32, slot i32 each
///   opened:    count u32, each: slot i32, candidates i32, first token index u64, sampling,
///              history (count u32, i32 each)
///   saves:     count u32, each: hash 32 bytes, hash before 32 bytes, tenant u64, tokens i32,
///              blocks (count u32, i32 each)
///   moves:     count u32, each: kind u8, then for a copy (0) group i32, from i32, to i32; for a
///              load (1) fetch u64, index i32, blocks (count u32, i32 each)
///   ended fetches: count u32, id u64 each
///   fetches:   count u32, each: id u64, blocks (count u32, each: hash 32 bytes, tokens i32, groups
///              u32)
///   sequences: count u32, each: slot i32, start i32, flags u8 (bit 0 sample, bit 1 gather, bit 2
///              score what is sampled, bit 3 score all), top i32, next token i32, tokens (count
///              u32, i32 each), drafts (the same), groups u32, each: count u32, (index i32, block
///              i32)
///   hash: 16 bytes, BLAKE2b of everything before it
std::vector<std::byte> EncodeStepPlan(const StepPlan& plan);

/// kInvalidArgument, saying what is wrong, for everything that EncodeStepPlan did not write.
absl::StatusOr<StepPlan> DecodeStepPlan(std::span<const std::byte> bytes);

/// The hash that stands at the end of an encoded plan.
Digest StepPlanHash(std::span<const std::byte> encoded);

}  // namespace tandem::parallel
