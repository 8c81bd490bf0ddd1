#include "parallel/sharding/line_partition.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/parallel/sharding/try_all_partitions.h"

namespace tandem::parallel {
namespace {

/// A problem whose cost is the sum of the units', each any small number, none or a large one.
LineProblem RandomProblem(std::mt19937& random) {
  LineProblem problem;
  const size_t ranks = 1 + random() % 5;
  problem.minimum_units = static_cast<int64_t>(random() % 2);
  problem.units = static_cast<int64_t>(random() % 12);
  std::vector<double> before = {0};  // [units + 1] sums
  for (int64_t u = 0; u < problem.units; ++u) {
    before.push_back(before.back() + (random() % 5 == 0 ? 20 : static_cast<double>(random() % 6)));
  }
  problem.cost = [before](int64_t begin, int64_t end) {
    return before[static_cast<size_t>(end)] - before[static_cast<size_t>(begin)];
  };
  for (size_t r = 0; r < ranks; ++r) {
    problem.speeds.push_back(std::vector<double>{0.25, 1, 1, 2, 3, 10}[random() % 6]);
  }
  if (random() % 2 == 0) {
    for (size_t r = 0; r < ranks; ++r) problem.limits.push_back(static_cast<double>(random() % 60));
  }
  if (random() % 2 == 0) {
    // Costs 1 for each rank that holds a part of a pair.
    problem.penalty = [](int64_t begin, int64_t end) {
      return end == begin ? 0 : (end - 1) / 2 - begin / 2 + 1;
    };
  }
  return problem;
}

TEST(CutLine, IsAsFastAsTheBestOfAllPartitions) {
  std::mt19937 random(17);
  int possible = 0;
  int impossible = 0;
  for (int trial = 0; trial < 20000; ++trial) {
    const LineProblem problem = RandomProblem(random);
    const TriedPartition expected = TryAllPartitions(problem);
    const auto cuts = CutLine(problem);
    ASSERT_EQ(cuts.has_value(), expected.time < std::numeric_limits<double>::infinity())
        << "trial " << trial;
    if (!cuts.has_value()) {
      ++impossible;
      continue;
    }
    ++possible;
    ASSERT_EQ(cuts->size(), problem.speeds.size() + 1);
    ASSERT_EQ(cuts->front(), 0);
    ASSERT_EQ(cuts->back(), problem.units);
    double slowest = 0;
    int64_t penalty = 0;
    for (size_t r = 0; r < problem.speeds.size(); ++r) {
      const int64_t begin = (*cuts)[r];
      const int64_t end = (*cuts)[r + 1];
      ASSERT_GE(end - begin, problem.minimum_units);
      const double cost = problem.cost(begin, end);
      if (!problem.limits.empty()) {
        ASSERT_LE(cost, problem.limits[r]);
      }
      slowest = std::max(slowest, cost / problem.speeds[r]);
      if (problem.penalty) penalty += problem.penalty(begin, end);
    }
    ASSERT_EQ(slowest, expected.time) << "trial " << trial;
    ASSERT_EQ(penalty, expected.penalty) << "trial " << trial;
  }
  EXPECT_GT(possible, 5000);
  EXPECT_GT(impossible, 1000);
}

TEST(CutLine, OfEqualsTheLowerRankTakesMore) {
  LineProblem problem;
  problem.units = 5;
  problem.speeds = {1, 1};
  problem.cost = [](int64_t begin, int64_t end) { return static_cast<double>(end - begin); };
  EXPECT_EQ(CutLine(problem), (std::vector<int64_t>{0, 3, 5}));
}

}  // namespace
}  // namespace tandem::parallel
