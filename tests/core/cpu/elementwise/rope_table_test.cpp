#include "core/cpu/elementwise/rope_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "core/cpu/elementwise/elementwise.h"

namespace tandem::core {
namespace {

void ExpectRow(const Rope& rope, const RopeTable& table, int64_t position) {
  std::vector<float> cosines(rope.inverse_frequencies.size());
  std::vector<float> sines(cosines.size());
  RopeAngles(rope, position, cosines, sines);
  EXPECT_TRUE(std::ranges::equal(table.cosines(position), cosines)) << position;
  EXPECT_TRUE(std::ranges::equal(table.sines(position), sines)) << position;
}

TEST(RopeTable, KeepsPositionsAsFarAsThereAreNotTooMany) {
  Rope rope;
  rope.inverse_frequencies = {1.0, 0.03, 0.0001};
  RopeTable table(rope);
  table.Begin();
  table.Prepare(0, 200);
  const float* first = table.cosines(0).data();
  const int64_t far = 3 * RopeTable::kMostKept;
  int64_t kept_again = 0;
  for (int64_t position = 200; position < far; ++position) {
    table.Begin();
    table.Prepare(position, position + 1);
    if (position % 1000 == 0) ExpectRow(rope, table, position);
    if (position > RopeTable::kMostKept || position % 64 != 0) continue;
    kept_again += table.cosines(0).data() == first ? 1 : 0;
  }
  EXPECT_GT(kept_again, 100);
  // What was dropped is made again, and what one step prepares is all there, however much it is.
  table.Begin();
  table.Prepare(0, far);
  table.Prepare(far + 100, far + 101);
  for (const int64_t position : {int64_t{0}, int64_t{63}, far / 2, far - 1, far + 100}) {
    ExpectRow(rope, table, position);
  }
}

TEST(RopeTable, KeepsWhatStepsOfManySequencesUse) {
  Rope rope;
  rope.inverse_frequencies = {1.0, 0.03};
  RopeTable table(rope);
  constexpr int64_t kSequences = RopeTable::kMostKept / 16;  // each in a block of its own
  const float* first = nullptr;
  for (int64_t position = 0; position < 64; ++position) {
    table.Begin();
    for (int64_t s = 0; s < kSequences; ++s) {
      table.Prepare(64 * s + position, 64 * s + position + 1);
    }
    if (position == 0) first = table.cosines(0).data();
    EXPECT_EQ(table.cosines(0).data(), first);
    ExpectRow(rope, table, 64 * (kSequences - 1) + position);
  }
}

}  // namespace
}  // namespace tandem::core
