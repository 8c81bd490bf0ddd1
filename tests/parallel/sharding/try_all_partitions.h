#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>

#include "parallel/sharding/line_partition.h"

namespace tandem::parallel {

/// What the best of all partitions achieves; infinite time: there is none.
struct TriedPartition {
  double time = std::numeric_limits<double>::infinity();
  int64_t penalty = 0;  // the fewest among those of that time
};

/// The slow, obvious way to CutLine: every partition is looked at.
inline TriedPartition TryAllPartitions(const LineProblem& problem) {
  TriedPartition best;
  const std::function<void(size_t, int64_t, double, int64_t)> place =
      [&](size_t rank, int64_t begin, double slowest, int64_t penalties) {
        if (rank == problem.speeds.size()) {
          if (begin != problem.units) return;
          if (slowest < best.time || (slowest == best.time && penalties < best.penalty)) {
            best = {slowest, penalties};
          }
          return;
        }
        for (int64_t end = begin + problem.minimum_units; end <= problem.units; ++end) {
          const double cost = problem.cost(begin, end);
          const double time = cost / problem.speeds[rank];
          if (time > best.time) break;
          if (!problem.limits.empty() && cost > problem.limits[rank]) break;
          const int64_t penalty = problem.penalty ? problem.penalty(begin, end) : 0;
          place(rank + 1, end, std::max(slowest, time), penalties + penalty);
        }
      };
  place(0, 0, 0, 0);
  return best;
}

}  // namespace tandem::parallel
