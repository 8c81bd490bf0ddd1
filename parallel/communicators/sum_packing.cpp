#include "parallel/communicators/sum_packing.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "core/cpu/elementwise/elementwise.h"

namespace tandem::parallel {
namespace {

static_assert(std::endian::native == std::endian::little);

size_t Blocks(size_t count) { return (count + kPackedBlock - 1) / kPackedBlock; }

/// Bytes that hold the largest of the sums and its sign.
size_t WidthOf(std::span<const int64_t> sums) {
  uint64_t bits = 0;
  for (const int64_t sum : sums) bits |= static_cast<uint64_t>(sum ^ (sum >> 63));
  return static_cast<size_t>(std::bit_width(bits)) / 8 + 1;
}

int64_t SignExtended(uint64_t bytes, unsigned shift) {
  return static_cast<int64_t>(bytes << shift) >> shift;
}

void AddBlock(std::span<const std::byte> packed, size_t width, std::span<int64_t> sums) {
  const auto shift = static_cast<unsigned>(64 - 8 * width);
  const auto add = [&](size_t i, size_t bytes) {
    uint64_t number = 0;
    std::memcpy(&number, packed.data() + i * width, bytes);
    // Unsigned, where overflow is defined: the bytes are not trusted.
    sums[i] = static_cast<int64_t>(static_cast<uint64_t>(sums[i]) +
                                   static_cast<uint64_t>(SignExtended(number, shift)));
  };
  // Whole words as far as they lie within the bytes.
  const size_t words = packed.size() < 8 ? 0 : (packed.size() - 8) / width + 1;
  const size_t fast = std::min(sums.size(), words);
  for (size_t i = 0; i < fast; ++i) add(i, 8);
  for (size_t i = fast; i < sums.size(); ++i) add(i, width);
}

}  // namespace

size_t PackedRoom(size_t count) {
  return Blocks(count) + (count + 1) * sizeof(int64_t);  // one more, since whole words are written
}

size_t PackSums(std::span<const int64_t> sums, std::byte* out) {
  std::byte* widths = out;
  std::byte* at = out + Blocks(sums.size());
  for (size_t begin = 0; begin < sums.size(); begin += kPackedBlock) {
    const auto block = sums.subspan(begin, std::min(kPackedBlock, sums.size() - begin));
    const size_t width = WidthOf(block);
    *widths++ = static_cast<std::byte>(width);
    for (const int64_t sum : block) {
      std::memcpy(at, &sum, sizeof(sum));
      at += width;
    }
  }
  return static_cast<size_t>(at - out);
}

absl::Status AddPacked(std::span<const std::byte> packed, std::span<int64_t> sums) {
  const size_t blocks = Blocks(sums.size());
  if (packed.size() < blocks) {
    return Internal("{} bytes for the widths of {} blocks of sums", packed.size(), blocks);
  }
  const auto widths = packed.first(blocks);
  std::span<const std::byte> rest = packed.subspan(blocks);
  for (size_t b = 0; b < blocks; ++b) {
    const size_t begin = b * kPackedBlock;
    const auto block = sums.subspan(begin, std::min(kPackedBlock, sums.size() - begin));
    const auto width = static_cast<size_t>(widths[b]);
    if (width < 1 || width > 8 || rest.size() < width * block.size()) {
      return Internal(
          "block {} of {} has {} sums of {} bytes in {} bytes; expected 1 to 8 bytes each", b,
          blocks, block.size(), width, rest.size());
    }
    AddBlock(rest, width, block);
    rest = rest.subspan(width * block.size());
  }
  if (!rest.empty()) return Internal("{} bytes too many behind {} sums", rest.size(), sums.size());
  return absl::OkStatus();
}

void RoundTotals(std::span<const int64_t> sums, float* out) {
  core::PartialSumsToFloat(core::BestIsa(), sums, {}, std::span(out, sums.size()));
}

void ReadTotals(const std::byte* totals, std::span<int64_t> sums) {
  for (size_t i = 0; i < sums.size(); ++i) {
    float total = 0;
    std::memcpy(&total, totals + i * sizeof(float), sizeof(float));
    // Only a sum next to 2^63 rounds to 2^31; the largest integer rounds there too.
    const bool fits = total >= -0x1p31F && total < 0x1p31F;
    sums[i] = fits ? static_cast<int64_t>(total * 0x1p32F) : std::numeric_limits<int64_t>::max();
  }
}

}  // namespace tandem::parallel
