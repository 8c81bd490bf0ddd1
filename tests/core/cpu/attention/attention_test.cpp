#include "core/cpu/attention/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/base/float_convert.h"
#include "core/cpu/attention/attention_by_chunks.h"
#include "core/cpu/simd/float8.h"
#include "tests/core/cpu/attention/attention_cache.h"
#include "tests/support/isas.h"

namespace tandem::core {
namespace {

using attention::Cache;
using attention::SameBits;

std::vector<float> Attend(Isa isa, const Cache& cache, int layer, int head,
                          const std::vector<float>& query, int64_t position, int window,
                          float scale, float slope = 0.0F) {
  std::vector<float> out(query.size(), 42.0F);
  const AttentionQuery one = {query.data(), out.data(), position, slope};
  AttendQueries(isa, {&one, 1}, cache.Head(layer, head), window, scale);
  return out;
}

void ExpectNearDouble(const Cache& cache, int layer, int head, const std::vector<float>& query,
                      int64_t position, int window, float scale, const std::vector<float>& out,
                      float slope = 0.0F) {
  std::vector<int64_t> visible;
  for (int64_t t = window == 0 ? 0 : std::max<int64_t>(0, position - window + 1); t <= position;
       ++t) {
    visible.push_back(t);
  }
  attention::ExpectNearDouble(cache.Head(layer, head), cache, query, visible, scale, out, slope);
}

struct Shape {
  int head_dim;
  KvDtype dtype;
};

class AttentionTest : public ::testing::TestWithParam<Shape> {};

TEST_P(AttentionTest, AgreesWithDoubleAndBetweenIsas) {
  const auto [head_dim, dtype] = GetParam();
  Cache cache(head_dim, 2, dtype, 800);
  const float scale = 1.0F / std::sqrt(static_cast<float>(head_dim));
  for (const int window : {0, 1, 16, 100, 512}) {
    for (const int64_t position :
         {0, 1, 15, 16, 63, 64, 65, 254, 255, 256, 257, 511, 512, 530, 799}) {
      const std::vector<float> query = cache.Query();
      const std::vector<float> out =
          Attend(Isa::kScalar, cache, 1, 1, query, position, window, scale);
      ExpectNearDouble(cache, 1, 1, query, position, window, scale, out);
      for (const Isa isa : test::SupportedIsas()) {
        EXPECT_TRUE(SameBits(Attend(isa, cache, 1, 1, query, position, window, scale), out))
            << IsaName(isa) << " position " << position << " window " << window;
      }
    }
  }
}

TEST_P(AttentionTest, AlibiAgreesWithDoubleAndBetweenIsas) {
  const auto [head_dim, dtype] = GetParam();
  Cache cache(head_dim, 1, dtype, 800);
  const float scale = 1.0F / std::sqrt(static_cast<float>(head_dim));
  for (const float slope : {0x1p-8F, 0.044194175F, 0.5F}) {
    for (const int window : {0, 100}) {
      std::vector<std::vector<float>> queries, alone, together;
      constexpr int64_t kPositions[] = {0, 1, 15, 64, 255, 256, 257, 530, 799};
      for (const int64_t position : kPositions) {
        queries.push_back(cache.Query());
        alone.push_back(
            Attend(Isa::kScalar, cache, 0, 0, queries.back(), position, window, scale, slope));
        ExpectNearDouble(cache, 0, 0, queries.back(), position, window, scale, alone.back(), slope);
        together.emplace_back(queries.back().size());
      }
      // Beside a query of another slope.
      for (const Isa isa : test::SupportedIsas()) {
        for (size_t q = 0; q < queries.size(); ++q) {
          std::vector<float> other(queries[q].size());
          const AttentionQuery pair[] = {
              {queries[q].data(), other.data(), kPositions[q], 0.0F},
              {queries[q].data(), together[q].data(), kPositions[q], slope}};
          AttendQueries(isa, pair, cache.Head(0, 0), window, scale);
          EXPECT_TRUE(SameBits(together[q], alone[q])) << IsaName(isa) << " query " << q;
          EXPECT_TRUE(
              SameBits(other, Attend(isa, cache, 0, 0, queries[q], kPositions[q], window, scale)));
        }
      }
    }
  }
}

TEST_P(AttentionTest, GivesTheSameBitsForManyQueriesAtOnce) {
  const auto [head_dim, dtype] = GetParam();
  Cache cache(head_dim, 1, dtype, 700);
  const float scale = 0.3F;
  std::mt19937 generator(5);
  for (const Isa isa : test::SupportedIsas()) {
    for (const int window : {0, 20, 300}) {
      for (const int count : {1, 2, 3, 4, 5, 9}) {
        std::vector<std::vector<float>> queries, out;
        std::vector<AttentionQuery> together;
        const auto start = static_cast<int64_t>(generator() % 600);
        for (int i = 0; i < count; ++i) {
          queries.push_back(cache.Query());
          out.emplace_back(queries.back().size(), 42.0F);
        }
        for (int i = 0; i < count; ++i) {
          const auto q = static_cast<size_t>(i);
          // Neighbours, equals, and one far away.
          const int64_t position = i == 3 ? 699 : start + i / 2 * 7;
          together.push_back({queries[q].data(), out[q].data(), position});
        }
        const auto expect_all = [&](const char* how) {
          for (size_t q = 0; q < together.size(); ++q) {
            EXPECT_TRUE(SameBits(out[q], Attend(Isa::kScalar, cache, 0, 0, queries[q],
                                                together[q].position, window, scale)))
                << IsaName(isa) << " window " << window << " query " << q << " of " << count << how;
            std::fill(out[q].begin(), out[q].end(), -1.0F);
          }
        };
        AttendQueries(isa, together, cache.Head(0, 0), window, scale);
        expect_all(" together");
        for (const int threads : {1, 3}) {
          ThreadPool pool(threads);
          AttentionByChunks by_chunks;
          by_chunks.Clear();
          by_chunks.Add(together, cache.Head(0, 0), window, scale);
          by_chunks.Run(isa, pool);
          expect_all(" by chunks");
        }
      }
    }
  }
}

TEST_P(AttentionTest, NeverLooksAtWhatIsNotVisible) {
  const auto [head_dim, dtype] = GetParam();
  constexpr int kWindow = 512;
  for (const int64_t position : {100, 511, 512, 600, 767, 768, 1100}) {
    Cache cache(head_dim, 1, dtype, 1152);
    const std::vector<float> query = cache.Query();
    const std::vector<float> expected =
        Attend(Isa::kScalar, cache, 0, 0, query, position, kWindow, 0.125F);
    ExpectNearDouble(cache, 0, 0, query, position, kWindow, 0.125F, expected);
    for (int64_t t = 0; t < 1152; ++t) {
      if (t <= position - kWindow || t > position) cache.Poison(0, 0, t);
    }
    for (int64_t b = 0; b < 18; ++b) {
      if ((b + 1) * kPageTokens <= position - kWindow + 1) {
        cache.blocks()[static_cast<size_t>(b)] = kNoBlock;
      }
    }
    // The table may also end with the page of the position.
    cache.blocks().resize(static_cast<size_t>(position / kPageTokens + 1));
    for (const Isa isa : test::SupportedIsas()) {
      EXPECT_TRUE(SameBits(Attend(isa, cache, 0, 0, query, position, kWindow, 0.125F), expected))
          << IsaName(isa) << " position " << position;
    }
  }
}

TEST_P(AttentionTest, QueriesWithDistantWindowsSkipWhatLiesBetween) {
  const auto [head_dim, dtype] = GetParam();
  Cache cache(head_dim, 1, dtype, 1024);
  const std::vector<float> first = cache.Query(), second = cache.Query();
  const std::vector<float> expected_first = Attend(Isa::kScalar, cache, 0, 0, first, 70, 10, 0.2F);
  const std::vector<float> expected_second =
      Attend(Isa::kScalar, cache, 0, 0, second, 1000, 10, 0.2F);
  for (size_t b = 0; b < cache.blocks().size(); ++b) {
    if (b != 0 && b != 1 && b != 15) cache.blocks()[b] = kNoBlock;
  }
  std::vector<float> out_first(first.size()), out_second(second.size());
  const AttentionQuery queries[] = {{second.data(), out_second.data(), 1000},
                                    {first.data(), out_first.data(), 70}};
  for (const Isa isa : test::SupportedIsas()) {
    AttendQueries(isa, queries, cache.Head(0, 0), 10, 0.2F);
    EXPECT_TRUE(SameBits(out_first, expected_first)) << IsaName(isa);
    EXPECT_TRUE(SameBits(out_second, expected_second)) << IsaName(isa);
  }
}

TEST_P(AttentionTest, DoesNotDependOnLaterTokens) {
  // Decode sees an unwritten rest of the page, replay after more tokens sees it filled.
  const auto [head_dim, dtype] = GetParam();
  for (const int64_t position : {0, 30, 255, 300}) {
    Cache then(head_dim, 1, dtype, position + 1);
    Cache later(head_dim, 1, dtype, position + 1);
    const std::vector<float> query = then.Query();
    ASSERT_EQ(later.Query(), query);
    const auto room = (position / kPageTokens + 1) * kPageTokens - position - 1;
    for (int64_t t = 0; t < room; ++t) later.Append();
    for (const Isa isa : test::SupportedIsas()) {
      EXPECT_TRUE(SameBits(Attend(isa, then, 0, 0, query, position, 0, 0.1F),
                           Attend(isa, later, 0, 0, query, position, 0, 0.1F)));
    }
  }
}

TEST_P(AttentionTest, NanAmongVisibleKeysReachesTheResult) {
  const auto [head_dim, dtype] = GetParam();
  for (const int64_t poisoned : {0, 17, 255, 256, 299}) {
    Cache cache(head_dim, 1, dtype, 300);
    const std::vector<float> query = cache.Query();
    cache.Poison(0, 0, poisoned);
    for (const Isa isa : test::SupportedIsas()) {
      for (const float x : Attend(isa, cache, 0, 0, query, 299, 0, 0.1F)) {
        EXPECT_TRUE(std::isnan(x)) << IsaName(isa) << " position " << poisoned;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionTest,
                         ::testing::Values(Shape{64, KvDtype::kF16}, Shape{64, KvDtype::kF32},
                                           Shape{80, KvDtype::kF16}, Shape{16, KvDtype::kF16},
                                           Shape{20, KvDtype::kF32}, Shape{7, KvDtype::kF16},
                                           Shape{256, KvDtype::kF16}, Shape{64, KvDtype::kF8},
                                           Shape{80, KvDtype::kF8}, Shape{7, KvDtype::kF8},
                                           Shape{256, KvDtype::kF8}),
                         [](const auto& parameter) {
                           return KvDtypeName(parameter.param.dtype) + std::string("x") +
                                  std::to_string(parameter.param.head_dim);
                         });

TEST(Attention, OneTokenIsItsValue) {
  Cache cache(64, 1, KvDtype::kF16, 1);
  for (const Isa isa : test::SupportedIsas()) {
    EXPECT_EQ(Attend(isa, cache, 0, 0, cache.Query(), 0, 0, 0.125F), cache.value(0, 0, 0));
  }
}

TEST(Attention, SurvivesHugeScores) {
  // Scores of thousands: without the maximum taken off, exp would overflow.
  Cache cache(64, 1, KvDtype::kF16, 600);
  const std::vector<float> query = cache.Query();
  const std::vector<float> out = Attend(Isa::kScalar, cache, 0, 0, query, 599, 0, 1000.0F);
  for (const float x : out) EXPECT_TRUE(std::isfinite(x));
  for (const Isa isa : test::SupportedIsas()) {
    EXPECT_TRUE(SameBits(Attend(isa, cache, 0, 0, query, 599, 0, 1000.0F), out));
  }
}

TEST(StoreKeyValue, RoundsToHalfAndTransposesKeys) {
  KvGeometry geometry;
  geometry.head_dim = 3;
  geometry.kv_heads = 1;
  std::vector<std::byte> memory(static_cast<size_t>(geometry.PageBytes()));
  const KvView view(geometry, {{memory.data(), geometry.PageBytes(), 0}});
  const KvPage page = view.Page(0, 0, 0);
  EXPECT_EQ(page.scales, nullptr);
  // Ties go to even: 2049 lies between 2048 and 2050, 2051 between 2050 and 2052.
  const std::vector<float> key = {2049.0F, 2051.0F, 70000.0F}, value = {-0.0F, 0x1p-25F, 1.0F};
  StoreKeyValue(geometry, page, 5, key, value);
  const auto half = [&](const std::byte* at, size_t index) {
    uint16_t bits = 0;
    std::memcpy(&bits, at + index * sizeof bits, sizeof bits);
    return bits;
  };
  EXPECT_EQ(HalfToFloat(half(page.keys, 0 * kPageTokens + 5)), 2048.0F);
  EXPECT_EQ(HalfToFloat(half(page.keys, 1 * kPageTokens + 5)), 2052.0F);
  EXPECT_EQ(half(page.keys, 2 * kPageTokens + 5), 0x7c00);  // infinity
  EXPECT_EQ(half(page.values, 5 * 3 + 0), 0x8000);
  EXPECT_EQ(half(page.values, 5 * 3 + 1), 0x0000);
  EXPECT_EQ(half(page.values, 5 * 3 + 2), 0x3c00);
}

class StoreFloat8 : public ::testing::Test {
 protected:
  StoreFloat8() {
    geometry_.head_dim = 3;
    geometry_.kv_heads = 1;
    geometry_.dtype = KvDtype::kF8;
    memory_.resize(static_cast<size_t>(geometry_.PageBytes()));
    page_ = KvView(geometry_, {{memory_.data(), geometry_.PageBytes(), 0}}).Page(0, 0, 0);
  }
  void Store(const std::vector<float>& key, const std::vector<float>& value) {
    StoreKeyValue(geometry_, page_, 5, key, value);
  }
  std::vector<int> key_codes() const {
    std::vector<int> codes;
    for (int d = 0; d < 3; ++d) codes.push_back(static_cast<int>(page_.keys[d * kPageTokens + 5]));
    return codes;
  }
  std::vector<int> value_codes() const {
    std::vector<int> codes;
    for (int d = 0; d < 3; ++d) codes.push_back(static_cast<int>(page_.values[5 * 3 + d]));
    return codes;
  }
  float key_scale() const { return page_.scales[5]; }
  float value_scale() const { return page_.scales[kPageTokens + 5]; }

  KvGeometry geometry_;
  std::vector<std::byte> memory_;
  KvPage page_ = {};
};

TEST_F(StoreFloat8, KeysAndValuesHaveScalesOfTheirOwn) {
  Store({448.0F, -224.0F, 1.0F}, {-0.875F, 0.0F, 0.4375F});
  EXPECT_EQ(key_codes(), (std::vector<int>{0x7e, 0xf6, 0x38}));
  EXPECT_EQ(key_scale(), 256.0F);
  EXPECT_EQ(value_codes(), (std::vector<int>{0xfe, 0x00, 0x76}));
  EXPECT_EQ(value_scale(), 0.5F);
}

TEST_F(StoreFloat8, ThePageHoldsItsScalesBehindTheValues) {
  EXPECT_EQ(geometry_.PageBytes(), 2 * 64 * (3 + 4));
  EXPECT_EQ(reinterpret_cast<std::byte*>(page_.scales), memory_.data() + 2 * 64 * 3);
}

TEST_F(StoreFloat8, WhatIsTooSmallToInvertIsZero) {
  Store({0.0F, 0.0F, 0.0F}, {0x1p-140F, 0.0F, 0x1p-149F});
  EXPECT_EQ(key_codes(), (std::vector<int>{0, 0, 0}));
  EXPECT_EQ(key_scale(), 0.0F);
  EXPECT_EQ(value_codes(), (std::vector<int>{0, 0, 0}));
  EXPECT_EQ(value_scale(), 0.0F);
}

TEST_F(StoreFloat8, TheLargestFloatsAreFinite) {
  constexpr float kMax = std::numeric_limits<float>::max();
  Store({kMax, -kMax, 0.5F * kMax}, {1.0F, 1.0F, 1.0F});
  EXPECT_EQ(key_codes(), (std::vector<int>{0x7e, 0xfe, 0x76}));
  EXPECT_EQ(key_scale(), kMax / 1.75F);
}

TEST_F(StoreFloat8, WhatIsNotFiniteMakesAllNan) {
  Store({1.0F, std::numeric_limits<float>::infinity(), 2.0F},
        {-std::numeric_limits<float>::quiet_NaN(), 1.0F, 0.0F});
  EXPECT_EQ(key_codes(), (std::vector<int>{0x7f, 0x7f, 0x7f}));
  EXPECT_EQ(value_codes(), (std::vector<int>{0x7f, 0x7f, 0x7f}));
  EXPECT_EQ(std::bit_cast<uint32_t>(key_scale()), 0x7fc00000U);
  EXPECT_EQ(std::bit_cast<uint32_t>(value_scale()), 0x7fc00000U);
}

}  // namespace
}  // namespace tandem::core
