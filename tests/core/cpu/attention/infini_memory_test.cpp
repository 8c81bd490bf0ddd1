#include "core/cpu/attention/infini_memory.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/base/float_convert.h"
#include "core/cpu/attention/attention.h"
#include "core/cpu/attention/segment_keys.h"
#include "core/cpu/elementwise/elementwise.h"
#include "tests/support/random.h"

namespace tandem::core {
namespace {

using testing::SplitMix;

std::vector<Isa> Sets() {
  std::vector<Isa> sets;
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (isa <= BestIsa()) sets.push_back(isa);
  }
  return sets;
}

/// A state with memory of its own.
struct OwnState {
  explicit OwnState(int n) : floats(static_cast<size_t>(n * (n + 1))), dim(n) {}
  KvState state() { return {floats.data(), floats.data() + dim * dim}; }
  std::vector<float> floats;
  int dim;
};

/// Pages of one head, filled token by token as attention fills them.
struct Pages {
  Pages(KvDtype dtype, int head_dim, int count, uint64_t seed) {
    geometry.head_dim = head_dim;
    geometry.dtype = dtype;
    geometry.kv_heads = 1;
    SplitMix random(seed);
    for (int p = 0; p < count; ++p) {
      auto& bytes = memory.emplace_back(static_cast<size_t>(geometry.PageBytes()));
      std::byte* const keys = bytes.data();
      const int64_t part = kPageTokens * head_dim * KvElementBytes(dtype);
      pages.push_back(
          {keys, keys + part,
           KvScaleBytes(dtype) != 0 ? reinterpret_cast<float*>(keys + 2 * part) : nullptr});
      for (int t = 0; t < kPageTokens; ++t) {
        std::vector<float> key(static_cast<size_t>(head_dim));
        std::vector<float> value(key.size());
        for (float& x : key) x = random.Unit() * 4 - 2;
        for (float& x : value) x = random.Unit() * 2 - 1;
        StoreKeyValue(geometry, pages.back(), t, key, value);
      }
    }
  }
  KvGeometry geometry;
  std::vector<std::vector<std::byte>> memory;
  std::vector<KvPage> pages;
};

double Feature(double x) { return x > 0 ? x + 1 : std::exp(x); }

/// The definitions, in double. keys, values: [tokens][n]
struct Naive {
  std::vector<double> memory, normalizer;
  size_t n;

  explicit Naive(size_t dim) : memory(dim * dim, 0.0), normalizer(dim, 0.0), n(dim) {}

  std::vector<double> Read(const std::vector<double>& q) const {
    double divisor = 0;
    for (size_t i = 0; i < n; ++i) divisor += Feature(q[i]) * normalizer[i];
    std::vector<double> out(n, 0.0);
    if (divisor == 0) return out;
    for (size_t j = 0; j < n; ++j) {
      for (size_t i = 0; i < n; ++i) out[j] += Feature(q[i]) * memory[i * n + j];
      out[j] /= divisor;
    }
    return out;
  }
  void Add(const std::vector<std::vector<double>>& keys, std::vector<std::vector<double>> values,
           AttentionForm::Update update) {
    if (update == AttentionForm::Update::kDelta) {
      for (size_t t = 0; t < keys.size(); ++t) {
        const std::vector<double> known = Read(keys[t]);
        for (size_t j = 0; j < n; ++j) values[t][j] -= known[j];
      }
    }
    for (size_t t = 0; t < keys.size(); ++t) {
      for (size_t i = 0; i < n; ++i) {
        normalizer[i] += Feature(keys[t][i]);
        for (size_t j = 0; j < n; ++j) memory[i * n + j] += Feature(keys[t][i]) * values[t][j];
      }
    }
  }
};

std::vector<std::vector<double>> TokensOf(const Pages& pages, bool of_keys) {
  std::vector<std::vector<double>> tokens;
  const auto n = static_cast<size_t>(pages.geometry.head_dim);
  std::vector<float> floats(n * kPageTokens);
  for (const KvPage& page : pages.pages) {
    of_keys ? ReadPageKeys(pages.geometry, page, floats.data())
            : ReadPageValues(pages.geometry, page, floats.data());
    for (size_t t = 0; t < kPageTokens; ++t) {
      auto& token = tokens.emplace_back();
      for (size_t i = 0; i < n; ++i) {
        token.push_back(floats[of_keys ? i * kPageTokens + t : t * n + i]);
      }
    }
  }
  return tokens;
}

class InfiniMemory : public ::testing::TestWithParam<std::tuple<int, KvDtype>> {};

TEST_P(InfiniMemory, IsThatOfTheDefinitionsAndTheSameForEveryInstructionSet) {
  const auto [head_dim, dtype] = GetParam();
  const auto n = static_cast<size_t>(head_dim);
  for (const auto update : {AttentionForm::Update::kDelta, AttentionForm::Update::kLinear}) {
    std::vector<std::vector<float>> results;
    for (const Isa isa : Sets()) {
      Naive naive(n);
      OwnState before(head_dim);
      OwnState after(head_dim);
      std::vector<float> scratch;
      SplitMix random(9);
      for (int segment = 0; segment < 3; ++segment) {
        const Pages pages(dtype, head_dim, 2, 40 + static_cast<uint64_t>(segment));
        const KvState old = before.state();
        UpdateMemory(isa, update, pages.geometry, segment == 0 ? nullptr : &old, pages.pages,
                     after.state(), scratch);
        naive.Add(TokensOf(pages, true), TokensOf(pages, false), update);
        std::swap(before.floats, after.floats);
      }
      double largest = 0;
      double difference = 0;
      for (size_t i = 0; i < n * n; ++i) {
        largest = std::max(largest, std::abs(naive.memory[i]));
        difference = std::max(difference, std::abs(naive.memory[i] - double{before.floats[i]}));
      }
      EXPECT_LT(difference, 2e-5 * largest);
      std::vector<float> query(n);
      for (float& x : query) x = random.Unit() * 4 - 2;
      std::vector<float> out(n);
      ReadMemory(isa, before.state(), query, out);
      const std::vector<double> expected =
          naive.Read(std::vector<double>(query.begin(), query.end()));
      for (size_t j = 0; j < n; ++j) EXPECT_NEAR(out[j], expected[j], 1e-4) << j;
      results.push_back(before.floats);
      results.back().insert(results.back().end(), out.begin(), out.end());
      std::vector<float> attended = query;
      MixMemory(isa, 0.25F, out, attended);
      for (size_t j = 0; j < n; ++j) {
        EXPECT_EQ(attended[j], __builtin_fmaf(0.25F, out[j], 0.75F * query[j]));
      }
    }
    for (const std::vector<float>& result : results) EXPECT_EQ(result, results[0]);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, InfiniMemory,
                         ::testing::Combine(::testing::Values(2, 10, 16, 33, 64, 80, 256),
                                            ::testing::Values(KvDtype::kF16, KvDtype::kF32,
                                                              KvDtype::kF8)),
                         [](const auto& shape) {
                           return fmt::format("{}{}", std::get<0>(shape.param),
                                              KvDtypeName(std::get<1>(shape.param)));
                         });

TEST(InfiniMemory, WithoutAnythingRememberedReadsZeros) {
  OwnState state(4);
  std::vector<float> out(4, 7.0F);
  ReadMemory(BestIsa(), state.state(), std::vector<float>(4, 1.0F), out);
  EXPECT_EQ(out, std::vector<float>(4, 0.0F));
}

TEST(SegmentKeys, AreThoseThatWereTurnedByTheirPlaceInTheSegment) {
  for (const RopeLayout layout : {RopeLayout::kHalves, RopeLayout::kAdjacentPairs}) {
    const Rope rope{.layout = layout, .inverse_frequencies = {1.0, 0.3, 0.01}};
    const Pages pages(KvDtype::kF16, 8, 1, 3);
    SegmentKeys keys(rope, 128);
    keys.Prepare(128);
    for (const Isa isa : Sets()) {
      for (const int64_t page_index : {0, 1, 6, 7}) {
        std::vector<float> turned(8 * kPageTokens);
        std::vector<float> values(8 * kPageTokens);
        keys.Read(isa, pages.geometry, pages.pages[0], page_index, turned.data(), values.data());
        const std::vector<std::vector<double>> plain = TokensOf(pages, true);
        for (int t = 0; t < kPageTokens; ++t) {
          std::vector<float> key(plain[static_cast<size_t>(t)].begin(),
                                 plain[static_cast<size_t>(t)].end());
          std::vector<float> cosines(3);
          std::vector<float> sines(3);
          RopeAngles(rope, page_index % 2 * kPageTokens + t, cosines, sines);
          Rotate(isa, layout, cosines, sines, key);
          for (size_t i = 0; i < 8; ++i) {
            ASSERT_EQ(turned[i * kPageTokens + static_cast<size_t>(t)], key[i]) << i << " " << t;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace tandem::core
