#include "core/cuda/kernels/sampling_kernels.h"

#include <gtest/gtest.h>

#include <limits>

#include "core/sampling/lane_sums.h"
#include "core/sampling/sampler.h"
#include "core/sampling/token_choice.h"
#include "tests/core/cuda/gpu.h"

namespace tandem::core {
namespace {

using ::tandem::testing::OnGpu;
using ::tandem::testing::SplitMix;

/// With ties, zeros of both signs, and numbers at the ends of the range.
std::vector<float> RandomLogits(int64_t count, uint64_t seed) {
  SplitMix random(seed);
  std::vector<float> logits(static_cast<size_t>(count));
  for (float& logit : logits) {
    constexpr float kSome[] = {0.0F, -0.0F, 1e-45F, -1e-45F, 3.4e38F, -3.4e38F, 7.0F, -7.0F};
    logit = random.Below(3) == 0 ? kSome[random.Below(8)]
                                 : std::round((random.Unit() - 0.5F) * 400.0F) / 8.0F;
  }
  return logits;
}

std::vector<Candidate> Select(const std::vector<float>& logits, int64_t columns,
                              const std::vector<SelectedRow>& rows, int32_t most) {
  CudaMemory memory;
  const OnGpu<float> values(memory, logits);
  const OnGpu<SelectedRow> on_gpu(memory, rows);
  const auto count = static_cast<int64_t>(rows.size());
  const OnGpu<uint64_t> keys(memory, count * SelectionKeys(columns, most));
  const OnGpu<Candidate> out(memory, rows.back().first + rows.back().count);
  LaunchSelectCandidates(memory.stream(), {values.data(), columns, 500}, on_gpu.data(), count, most,
                         keys.data(), out.data());
  return out.Read();
}

/// Those of the CPU, from the best down, padding last.
std::vector<Candidate> Expected(std::span<const float> logits, int32_t count) {
  std::vector<Candidate> expected(static_cast<size_t>(count));
  SelectCandidates(logits, 500, expected);
  std::sort(expected.begin(), expected.end(), [](const Candidate& a, const Candidate& b) {
    return a.token < 0 || b.token < 0 ? a.token > b.token && b.token < 0 : Better(a, b);
  });
  if (expected[0].token == kPaddingToken) std::swap(expected[0], expected.back());
  return expected;
}

void ExpectTheSame(std::span<const Candidate> found, std::span<const Candidate> expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    ASSERT_EQ(found[i].token, expected[i].token) << i;
    ASSERT_EQ(std::signbit(found[i].logit), std::signbit(expected[i].logit)) << i;
    ASSERT_EQ(found[i].logit, expected[i].logit) << i;
  }
}

TEST(LaunchSelectCandidates, FindsThoseOfTheCpu) {
  for (const int64_t columns : {1, 2, 31, 1000, 1024, 1025, 2048, 3100, 8200, 9000}) {
    const std::vector<float> logits = RandomLogits(2 * columns, static_cast<uint64_t>(columns));
    for (const int32_t count : {1, 2, 40, 1023, 1500, 9000}) {
      const std::vector<SelectedRow> rows = {{.row = 1, .first = 0, .count = count},
                                             {.row = 0, .first = count, .count = count / 2 + 1}};
      const std::vector<Candidate> found = Select(logits, columns, rows, count);
      for (const SelectedRow& row : rows) {
        const auto of_row = std::span(logits).subspan(static_cast<size_t>(row.row * columns),
                                                      static_cast<size_t>(columns));
        ExpectTheSame(std::span(found).subspan(static_cast<size_t>(row.first),
                                               static_cast<size_t>(row.count)),
                      Expected(of_row, row.count));
      }
    }
  }
}

TEST(LaunchSelectCandidates, FailsRowsWithALogitThatIsNotFinite) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::quiet_NaN()}) {
    for (const size_t at : {0, 1500, 2999}) {
      for (const int32_t count : {1, 3, 2000}) {
        std::vector<float> logits = RandomLogits(6000, at);
        logits[at] = logits[1501] = bad;
        const std::vector<SelectedRow> rows = {{.row = 0, .first = 0, .count = count},
                                               {.row = 1, .first = count, .count = count}};
        const std::vector<Candidate> found = Select(logits, 3000, rows, count);
        EXPECT_EQ(found[0].token, kFailedToken);
        for (int32_t i = 1; i < count; ++i) {
          ASSERT_EQ(found[static_cast<size_t>(i)].token, kPaddingToken);
        }
        ExpectTheSame(std::span(found).subspan(static_cast<size_t>(count)),
                      Expected(std::span(logits).subspan(3000), count));
      }
    }
  }
}

TEST(LaunchSelectCandidates, AnEmptyShardGivesPadding) {
  for (const int32_t count : {1, 300}) {
    const std::vector<Candidate> found =
        Select({}, 0, {{.row = 0, .first = 0, .count = count}}, count);
    for (const Candidate& candidate : found) EXPECT_EQ(candidate.token, kPaddingToken);
  }
}

TEST(LaunchChooseBest, TakesTheTokenOfSampleToken) {
  constexpr int64_t kRows = 300;
  SplitMix random(5);
  for (const int64_t ranks : {1, 2, 3, 8}) {
    std::vector<Candidate> candidates;
    for (int64_t i = 0; i < ranks * kRows; ++i) {
      // Few logits, so that ties are frequent; ranks have other tokens.
      const auto token =
          static_cast<int32_t>(i / kRows * 1000 + static_cast<int64_t>(random.Below(1000)));
      const auto kind = random.Below(12);
      candidates.push_back({static_cast<float>(random.Below(3)) - 1.0F, kind == 0   ? kPaddingToken
                                                                        : kind == 1 ? kFailedToken
                                                                                    : token});
    }
    std::vector<int32_t> expected;
    for (int64_t row = 0; row < kRows; ++row) {
      std::vector<Candidate> of_row;
      for (int64_t rank = 0; rank < ranks; ++rank) {
        of_row.push_back(candidates[static_cast<size_t>(rank * kRows + row)]);
      }
      expected.push_back(SampleToken({}, 0, of_row).value_or(-1));
    }
    CudaMemory memory;
    const OnGpu<Candidate> on_gpu(memory, candidates);
    const OnGpu<int32_t> tokens(memory, kRows);
    LaunchChooseBest(memory.stream(), on_gpu.data(), ranks, kRows, tokens.data());
    EXPECT_EQ(tokens.Read(), expected) << ranks << " ranks";
  }
}

TEST(LaunchSumBlocks, AddsInTheOrdersOfTheCpu) {
  constexpr size_t kColumns = 5000;
  CudaMemory memory;
  std::vector<float> logits = RandomLogits(3 * kColumns, 4);
  // Weights of 2^-60 to 1, whose sum depends on the order.
  SplitMix random(5);
  for (size_t i = 0; i < kColumns; ++i) logits[i] = 30.0F - 40.0F * random.Unit();
  const std::vector<SummedRow> rows = {{.row = 0, .softmax = {30.0F, 1.0F, 0.0F}},
                                       {.row = 2, .softmax = {25.0F, 4.0F, 0.01F}},
                                       {.row = 1, .softmax = {3.4e38F, 1e-30F, 0.0F}}};
  const OnGpu<float> values(memory, logits);
  const OnGpu<SummedRow> on_gpu(memory, rows);
  std::vector<double> in_other_order;
  for (const SumOrder order : {SumOrder::kRows, SumOrder::kLanes}) {
    const OnGpu<double> out(memory, 12);
    LaunchSumBlocks(memory.stream(), {values.data(), kColumns, 0}, on_gpu.data(), 3, order, 77, 4,
                    out.data());
    const std::vector<double> found = out.Read();
    for (size_t i = 0; i < found.size(); ++i) {
      const SummedRow& row = rows[i / 4];
      const size_t first = static_cast<size_t>(row.row) * kColumns + 77 + i % 4 * 1024;
      const auto block = std::span(logits).subspan(first, 1024);
      EXPECT_EQ(found[i], order == SumOrder::kRows ? SumOfBlock(block, row.softmax)
                                                   : SumInLanes(block, row.softmax))
          << i;
    }
    EXPECT_NE(found, in_other_order);
    in_other_order = found;
  }
}

TEST(LaunchKeep, AndRestoreBringLogitsBack) {
  CudaMemory memory;
  const std::vector<float> logits = RandomLogits(900, 6);
  const OnGpu<float> values(memory, logits);
  std::vector<int64_t> places;
  for (int64_t i = 0; i < 300; ++i) places.push_back(3 * i);
  const OnGpu<int64_t> on_gpu(memory, places);
  const OnGpu<float> kept(memory, 300);
  LaunchKeep(memory.stream(), on_gpu.data(), 300, values.data(), kept.data());
  std::vector<LogitChange> changes;
  for (const int64_t place : places) changes.push_back({place, 1.5F});
  const OnGpu<LogitChange> changes_on_gpu(memory, changes);
  LaunchPenalize(memory.stream(), changes_on_gpu.data(), 300, values.data());
  EXPECT_NE(values.Read(), logits);
  LaunchRestore(memory.stream(), on_gpu.data(), kept.data(), 300, values.data());
  EXPECT_TRUE(testing::SameBits(values.Read(), logits));
}

TEST(LaunchAddBiases, AddsThoseOfOneLogitInOrder) {
  CudaMemory memory;
  const std::vector<LogitChange> changes = {{1, 1e8F}, {1, 1.0F}, {1, -1e8F}, {3, 2.0F}};
  const OnGpu<LogitChange> on_gpu(memory, changes);
  const OnGpu<float> logits(memory, std::vector<float>{1, 2, 3, 4});
  LaunchAddBiases(memory.stream(), on_gpu.data(), 4, logits.data());
  EXPECT_EQ(logits.Read(), (std::vector<float>{1, ((2.0F + 1e8F) + 1.0F) - 1e8F, 3, 6}));
}

TEST(LaunchPenalize, DividesAndMultiplies) {
  CudaMemory memory;
  const OnGpu<LogitChange> on_gpu(memory, std::vector<LogitChange>{{2, 3.0F}, {0, 3.0F}});
  const OnGpu<float> logits(memory, std::vector<float>{1, 2, -3});
  LaunchPenalize(memory.stream(), on_gpu.data(), 2, logits.data());
  EXPECT_EQ(logits.Read(), (std::vector<float>{1.0F / 3.0F, 2, -9}));
}

TEST(LaunchReadParts, BringsThemTogether) {
  CudaMemory memory;
  const std::vector<float> logits = RandomLogits(3000, 5);
  const OnGpu<float> values(memory, logits);
  const std::vector<LogitPart> parts = {{.from = 1700, .to = 0, .count = 1000},
                                        {.from = 3, .to = 1000, .count = 1}};
  const OnGpu<LogitPart> on_gpu(memory, parts);
  const OnGpu<float> out(memory, 1001);
  LaunchReadParts(memory.stream(), {values.data(), 1000, 0}, on_gpu.data(), 2, out.data());
  std::vector<float> expected(logits.begin() + 1700, logits.begin() + 2700);
  expected.push_back(logits[3]);
  EXPECT_TRUE(testing::SameBits(out.Read(), expected));
}

}  // namespace
}  // namespace tandem::core
