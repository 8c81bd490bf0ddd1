#include "core/cuda/kernels/matrix_stages.h"

#include <gtest/gtest.h>

namespace tandem::core {
namespace {

constexpr StageNeeds kWanted = {.tiles = 8, .tile_bytes = 100, .token_bytes = 50, .stages = 4};

TEST(MatrixStages, AreAllThatIsWantedWhereThatFits) {
  for (const int64_t shared : {3400, 3401, 100000}) {
    const MatrixStages stages = FitStages(kWanted, shared);
    EXPECT_EQ(stages.tiles, 8);
    EXPECT_EQ(stages.stages, 4);
    EXPECT_EQ(stages.stage_bytes, 850);
  }
}

TEST(MatrixStages, AreFewerBeforeTheyHaveFewerTiles) {
  EXPECT_EQ(FitStages(kWanted, 3399).stages, 3);
  EXPECT_EQ(FitStages(kWanted, 1700).stages, 2);
  EXPECT_EQ(FitStages(kWanted, 1700).tiles, 8);
  EXPECT_EQ(FitStages(kWanted, 1699).tiles, 7);
  EXPECT_EQ(FitStages(kWanted, 1699).stages, 2);
}

TEST(MatrixStages, FitWheneverTheyHaveATile) {
  for (int64_t shared = 0; shared <= 4000; ++shared) {
    const MatrixStages stages = FitStages(kWanted, shared);
    EXPECT_EQ(stages.tiles >= 1, shared >= 300);
    if (stages.tiles < 1) continue;
    EXPECT_LE(stages.bytes(), shared);
    EXPECT_EQ(stages.stage_bytes, 50 + 100 * stages.tiles);
    // No more would fit.
    if (stages.tiles < 8) {
      EXPECT_GT(2 * (stages.stage_bytes + 100), shared);
    }
    if (stages.stages < 4 && stages.tiles == 8) {
      EXPECT_GT((stages.stages + 1) * stages.stage_bytes, shared);
    }
  }
}

}  // namespace
}  // namespace tandem::core
