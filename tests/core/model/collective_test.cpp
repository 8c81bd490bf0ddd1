#include "core/model/collective.h"

#include <gtest/gtest.h>

#include "core/base/float_convert.h"
#include "core/base/progress.h"
#include "core/cpu/attention/attention.h"
#include "core/cpu/elementwise/elementwise.h"
#include "core/cpu/linear/linear.h"
#include "core/model/model.h"
#include "core/sampling/sampler.h"
#include "parallel/engine/engine.h"

namespace tandem::core {

TEST(OneRank, GathersItself) {
  OneRank world;
  const std::byte mine[2] = {std::byte{1}, std::byte{2}};
  std::byte all[2] = {};
  ASSERT_TRUE(world.AllGather(mine, all, {}).ok());
  EXPECT_EQ(all[1], mine[1]);
}

}  // namespace tandem::core
