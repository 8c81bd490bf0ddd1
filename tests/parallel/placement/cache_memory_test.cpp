#include "parallel/placement/cache_memory.h"

#include <gtest/gtest.h>

namespace tandem::parallel {
namespace {

constexpr int64_t kGibibyte = int64_t{1} << 30;

TEST(CacheMemory, OfAllRanksOfAHostFitsIntoIt) {
  EXPECT_TRUE(CheckCacheMemory(0, "n1", 4, 0).ok());
  EXPECT_TRUE(CheckCacheMemory(kGibibyte, "n1", 4, 4 * kGibibyte).ok());
  EXPECT_EQ(CheckCacheMemory(kGibibyte, "n1", 5, 4 * kGibibyte),
            ResourceExhausted("--kv-memory: 1.0 GiB of KV cache for each of 5 ranks of host n1 are "
                              "more than the 4.0 GiB of memory that are available there; give less "
                              "than 819MiB, for the weights need some, too"));
  // A number of ranks that is not known yet is one.
  EXPECT_EQ(CheckCacheMemory(2 * kGibibyte, "n1", 0, kGibibyte),
            ResourceExhausted("--kv-memory: 2.0 GiB of KV cache for a rank of host n1 are more "
                              "than the 1.0 GiB of memory that are available there; give less than "
                              "1024MiB, for the weights need some, too"));
}

}  // namespace
}  // namespace tandem::parallel
