#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/base/status.h"

namespace tandem::parallel {

/// Sums in few bytes, for the network between hosts.
///
/// Packed: one byte a block of 256 sums (the last one may be shorter), its width in bytes, 1 to 8;
/// then every sum in its block's width, two's complement, least significant byte first. A block's
/// width is that of its largest sum, so nothing is lost. Partial sums of a forward pass, multiples
/// of 2^-32 (numerics.md, rule 3), mostly need 5 bytes instead of 8.
inline constexpr size_t kPackedBlock = 256;

/// Room that PackSums needs for `count` sums, whatever they are.
size_t PackedRoom(size_t count);

/// Returns the number of bytes. out: PackedRoom(sums.size()) bytes, all of which may be written.
size_t PackSums(std::span<const int64_t> sums, std::byte* out);

/// Adds to every sum what was packed for it. The bytes are not trusted: kInternal, and nothing
/// read outside of them, if they do not pack as many sums; `sums` may be partly added to then.
absl::Status AddPacked(std::span<const std::byte> packed, std::span<int64_t> sums);

/// The sums in units of 2^-32, each rounded once to float32: what a forward pass takes from a
/// total. out: [sums.size()]
void RoundTotals(std::span<const int64_t> sums, float* out);

/// The way back: integers that round to these floats again. Where a float is none of RoundTotals,
/// any number. totals: [sums.size()] float32 in memory order, not aligned.
void ReadTotals(const std::byte* totals, std::span<int64_t> sums);

}  // namespace tandem::parallel
