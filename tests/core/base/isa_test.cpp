#include "core/base/isa.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xmmintrin.h>

#include <limits>

namespace tandem::core {
namespace {

TEST(Isa, NamesGoBothWays) {
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, BestIsa()}) {
    const absl::StatusOr<Isa> parsed = ParseIsa(IsaName(isa));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, isa);
  }
  EXPECT_EQ(*ParseIsa("auto"), BestIsa());
  EXPECT_TRUE(CheckProcessor().ok());
}

TEST(Isa, UnknownNameIsAnError) {
  const absl::StatusOr<Isa> parsed = ParseIsa("sse2");
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(parsed.status()), ::testing::HasSubstr("'sse2'"));
  EXPECT_FALSE(ParseIsa("").ok());
}

TEST(Isa, Avx512IsTakenOnlyWhereItIsThere) {
  const absl::StatusOr<Isa> parsed = ParseIsa("avx512");
  if (BestIsa() == Isa::kAvx512) {
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, Isa::kAvx512);
    return;
  }
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(parsed.status()), ::testing::HasSubstr("lacks"));
}

TEST(Isa, FloatEnvironmentIsPutRight) {
  _mm_setcsr(_mm_getcsr() | 0xe040);  // round to zero, flush to zero, denormals are zero
  SetFloatEnvironment();
  EXPECT_EQ(_mm_getcsr() & 0xe040, 0U);
  volatile float smallest = std::numeric_limits<float>::min();
  EXPECT_GT(smallest / 2, 0.0F);
}

}  // namespace
}  // namespace tandem::core
