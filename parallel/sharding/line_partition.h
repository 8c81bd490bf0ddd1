#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace tandem::parallel {

/// A line of units that consecutive ranks cut among them so that the slowest is as fast as can be.
struct LineProblem {
  int64_t units = 0;
  int64_t minimum_units = 0;   // of every rank: 0 or 1
  std::vector<double> speeds;  // [ranks] cost per time, > 0
  std::vector<double> limits;  // [ranks] the largest cost a rank can hold; empty: none
  /// Cost of the units [begin, end); 0 where empty; never smaller for a range that contains it.
  std::function<double(int64_t begin, int64_t end)> cost;
  /// Among equally fast partitions the one with the smallest sum of this wins, then the most even
  /// one. Empty: all the same.
  std::function<int64_t(int64_t begin, int64_t end)> penalty;
};

/// Cut points [ranks + 1] from 0 to `units`: rank r takes [cuts[r], cuts[r + 1]). Nothing if the
/// limits or the minimum leave no partition.
///
/// Exact: no partition has a smaller largest cost/speed (the search halves the deadline down to
/// neighbouring doubles and decides each one exactly). Deterministic, so that every rank makes the
/// same plan.
std::optional<std::vector<int64_t>> CutLine(const LineProblem& problem);

}  // namespace tandem::parallel
