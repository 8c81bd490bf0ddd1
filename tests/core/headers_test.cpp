#include <gtest/gtest.h>

#include "core/attention.h"
#include "core/collective.h"
#include "core/elementwise.h"
#include "core/float_convert.h"
#include "core/linear.h"
#include "core/model.h"
#include "core/progress.h"
#include "core/sampler.h"
#include "parallel/engine.h"

namespace tandem::core {

TEST(OneRank, GathersItself) {
  OneRank world;
  const std::byte mine[2] = {std::byte{1}, std::byte{2}};
  std::byte all[2] = {};
  ASSERT_TRUE(world.AllGather(mine, all, {}).ok());
  EXPECT_EQ(all[1], mine[1]);
}

}  // namespace tandem::core
