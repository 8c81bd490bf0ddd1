#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "core/base/status.h"

namespace tandem::core {

/// Where a rank is in a step: published to the watchdog before each collective, and named in
/// errors.
struct StepPhase {
  enum class Kind : uint8_t { kAttention, kFeedForward, kVocabulary, kOther };
  uint64_t step = 0;
  int32_t layer = -1;
  Kind kind = Kind::kOther;
};

/// What a forward pass asks of the other ranks.
///
/// All ranks call the same operations in the same order with the same sizes; they follow from the
/// step plan, and from what all ranks have gathered. One thread a rank calls. The first error
/// sticks: after it every call returns it. Implementations: OneRank here; threads, MPI and NCCL in
/// parallel/.
class Collective {
 public:
  virtual ~Collective() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// Adds `values` over all ranks, in place. Integers, so any algorithm gives the same bits.
  virtual absl::Status AllReduceSum(std::span<int64_t> values, const StepPhase& phase) = 0;

  /// The same for sums, which are only rounded to float32 afterwards (numerics.md, rule 3):
  /// each becomes the sum, or another integer that rounds to the same float32.
  virtual absl::Status AllReducePartialSums(std::span<int64_t> values, const StepPhase& phase) {
    return AllReduceSum(values, phase);
  }

  /// Everyone's `mine` in rank order into `all`; all.size() == size() * mine.size(), equal sizes on
  /// all ranks.
  virtual absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all,
                                 const StepPhase& phase) = 0;
};

/// The world of one rank.
class OneRank final : public Collective {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  absl::Status AllReduceSum(std::span<int64_t>, const StepPhase&) override {
    return absl::OkStatus();
  }
  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all,
                         const StepPhase&) override {
    if (!mine.empty()) std::memcpy(all.data(), mine.data(), mine.size());
    return absl::OkStatus();
  }
};

}  // namespace tandem::core
