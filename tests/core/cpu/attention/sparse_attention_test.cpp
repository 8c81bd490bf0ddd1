#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "core/cpu/attention/attention.h"
#include "core/cpu/attention/attention_by_chunks.h"
#include "core/model/attention_text.h"
#include "tests/core/cpu/attention/attention_cache.h"
#include "tests/support/isas.h"

namespace tandem::core {
namespace {

using attention::Cache;
using attention::ExpectNearDouble;
using attention::SameBits;

constexpr int64_t kTokens = 1500;

/// A form and the window that the layer has besides.
struct Sight {
  AttentionForm form;
  int window = 0;
};
std::vector<Sight> Sights() {
  return {{{.window = 1}},
          {{.window = 64, .global = 4}},
          {{.window = 100, .global = 70}},
          {{.window = 300, .global = 1}},
          {{.window = 20, .global = 3, .random = 2, .seed = 7}},
          {{.window = 65, .random = 4, .seed = uint64_t{1} << 40}},
          {{.window = 1, .global = 130, .random = 3}},
          {{.window = 33, .global = 10, .random = 1000}},
          {{.window = 40, .global = 500, .random = 2}, 300},
          {{.window = 40, .random = 5}, 777},
          {{.window = 400, .global = 9, .random = 5}, 100},
          {{.window = 2000, .global = 9, .random = 5}}};
}

/// A layer of sparse attention over the cache.
struct Layer {
  explicit Layer(const Sight& sight) : window(sight.window), sparse(sight.form) {
    sparse.Begin();
    sparse.Prepare(kLayer, 0, kTokens - 1);
  }
  HeadPages Head(const Cache& cache) const {
    HeadPages pages = cache.Head(kLayer, 0);
    pages.sparse = &sparse;
    return pages;
  }
  /// By the words of docs/attention.md.
  std::vector<int64_t> Visible(int64_t p) const {
    const AttentionForm& form = sparse.form();
    const std::vector<int32_t> chosen = ChosenBlocks(form, kLayer, p / 64);
    std::vector<int64_t> visible;
    for (int64_t k = 0; k <= p; ++k) {
      if (window > 0 && p - k >= window) continue;
      if (p - k < form.window || k < form.global ||
          std::find(chosen.begin(), chosen.end(), k / 64) != chosen.end()) {
        visible.push_back(k);
      }
    }
    return visible;
  }
  std::vector<float> Attend(Isa isa, const Cache& cache, const std::vector<float>& query,
                            int64_t position, float scale, float slope = 0.0F) const {
    std::vector<float> out(query.size(), 42.0F);
    const AttentionQuery one = {query.data(), out.data(), position, slope};
    AttendQueries(isa, {&one, 1}, Head(cache), window, scale);
    return out;
  }
  std::string Name() const {
    return AttentionText(sparse.form()) + ", window of the layer " + std::to_string(window);
  }

  static constexpr int kLayer = 1;
  int window;
  SparseAttention sparse;
};

struct SparseShape {
  int head_dim;
  KvDtype dtype;
};

class SparseAttentionKernels : public ::testing::TestWithParam<SparseShape> {};

TEST_P(SparseAttentionKernels, AgreeWithDoubleAndBetweenIsas) {
  const auto [head_dim, dtype] = GetParam();
  Cache cache(head_dim, 1, dtype, kTokens);
  const float scale = 1.0F / std::sqrt(static_cast<float>(head_dim));
  for (const Sight& sight : Sights()) {
    const Layer layer(sight);
    for (const int64_t position :
         {0, 1, 63, 64, 65, 127, 128, 255, 256, 300, 511, 512, 640, 900, 1023, 1024, 1300, 1499}) {
      const std::vector<float> query = cache.Query();
      for (const float slope : {0.0F, 0.03F}) {
        const std::vector<float> out =
            layer.Attend(Isa::kScalar, cache, query, position, scale, slope);
        ExpectNearDouble(layer.Head(cache), cache, query, layer.Visible(position), scale, out,
                         slope);
        for (const Isa isa : test::SupportedIsas()) {
          EXPECT_TRUE(SameBits(layer.Attend(isa, cache, query, position, scale, slope), out))
              << IsaName(isa) << " position " << position << ", " << layer.Name();
        }
      }
    }
  }
}

TEST_P(SparseAttentionKernels, GiveTheSameBitsForManyQueriesAtOnce) {
  const auto [head_dim, dtype] = GetParam();
  Cache cache(head_dim, 1, dtype, kTokens);
  const float scale = 0.3F;
  std::mt19937 generator(5);
  for (const Sight& sight : Sights()) {
    const Layer layer(sight);
    for (const int count : {1, 2, 3, 4, 5, 9, 14}) {
      std::vector<std::vector<float>> queries, out;
      std::vector<AttentionQuery> together;
      const auto start = static_cast<int64_t>(generator() % 1400);
      for (int i = 0; i < count; ++i) {
        queries.push_back(cache.Query());
        out.emplace_back(queries.back().size(), 42.0F);
      }
      for (int i = 0; i < count; ++i) {
        const auto q = static_cast<size_t>(i);
        // Neighbours, equals, and one far away: their blocks have different choices.
        const int64_t position = i == 3 ? 1499 : start + i / 2 * 13;
        together.push_back({queries[q].data(), out[q].data(), position});
      }
      std::vector<std::vector<float>> expected;
      for (size_t q = 0; q < together.size(); ++q) {
        expected.push_back(
            layer.Attend(Isa::kScalar, cache, queries[q], together[q].position, scale));
      }
      for (const Isa isa : test::SupportedIsas()) {
        const auto expect_all = [&](const char* how) {
          for (size_t q = 0; q < together.size(); ++q) {
            EXPECT_TRUE(SameBits(out[q], expected[q]))
                << IsaName(isa) << " query " << q << " of " << count << how << ", " << layer.Name();
            std::fill(out[q].begin(), out[q].end(), -1.0F);
          }
        };
        AttendQueries(isa, together, layer.Head(cache), layer.window, scale);
        expect_all(" together");
        for (const int threads : {1, 3}) {
          ThreadPool pool(threads);
          AttentionByChunks by_chunks;
          by_chunks.Clear();
          by_chunks.Add(together, layer.Head(cache), layer.window, scale);
          by_chunks.Run(isa, pool);
          expect_all(" by chunks");
        }
      }
    }
  }
}

TEST_P(SparseAttentionKernels, NeverLookAtWhatIsNotVisible) {
  const auto [head_dim, dtype] = GetParam();
  for (const Sight& sight : Sights()) {
    const Layer layer(sight);
    for (const int64_t position : {130, 511, 777, 1344}) {
      Cache cache(head_dim, 1, dtype, kTokens);
      const std::vector<float> query = cache.Query();
      const std::vector<float> expected =
          layer.Attend(Isa::kScalar, cache, query, position, 0.125F);
      const std::vector<int64_t> visible = layer.Visible(position);
      std::vector<bool> seen_block(cache.blocks().size(), false);
      for (const int64_t k : visible) seen_block[static_cast<size_t>(k / 64)] = true;
      for (int64_t k = 0; k < kTokens; ++k) {
        if (!std::binary_search(visible.begin(), visible.end(), k)) cache.Poison(1, 0, k);
      }
      for (size_t b = 0; b < seen_block.size(); ++b) {
        if (!seen_block[b]) cache.blocks()[b] = kNoBlock;
      }
      cache.blocks().resize(static_cast<size_t>(position / kPageTokens + 1));
      for (const Isa isa : test::SupportedIsas()) {
        EXPECT_TRUE(SameBits(layer.Attend(isa, cache, query, position, 0.125F), expected))
            << IsaName(isa) << " position " << position << ", " << layer.Name();
      }
    }
  }
}

TEST_P(SparseAttentionKernels, HaveTheBitsOfDenseWindowsWhereTheySeeThose) {
  const auto [head_dim, dtype] = GetParam();
  Cache cache(head_dim, 1, dtype, kTokens);
  struct Same {
    Sight sight;
    int dense_window;
  };
  for (const Same& same : {Same{{{.window = 5000}}, 0}, Same{{{.window = 1, .global = 5000}}, 0},
                           Same{{{.window = 1, .random = 5000}}, 0}, Same{{{.window = 77}}, 77},
                           Same{{{.window = 77, .global = 300}, 50}, 50},
                           Same{{{.window = 1, .global = 5000}, 333}, 333}}) {
    const Layer layer(same.sight);
    for (const int64_t position : {0, 40, 255, 700, 1499}) {
      const std::vector<float> query = cache.Query();
      std::vector<float> dense(query.size());
      const AttentionQuery one = {query.data(), dense.data(), position};
      AttendQueries(Isa::kAvx2, {&one, 1}, cache.Head(1, 0), same.dense_window, 0.2F);
      // Random blocks lie outside of the diagonal; next to it some blocks are candidates of none.
      if (layer.Visible(position).size() !=
          static_cast<size_t>(same.dense_window == 0
                                  ? position + 1
                                  : std::min<int64_t>(position + 1, same.dense_window))) {
        continue;
      }
      EXPECT_TRUE(SameBits(layer.Attend(Isa::kAvx2, cache, query, position, 0.2F), dense))
          << "position " << position << ", " << layer.Name();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, SparseAttentionKernels,
                         ::testing::Values(SparseShape{64, KvDtype::kF16},
                                           SparseShape{64, KvDtype::kF32},
                                           SparseShape{7, KvDtype::kF16},
                                           SparseShape{80, KvDtype::kF8},
                                           SparseShape{256, KvDtype::kF16}),
                         [](const auto& parameter) {
                           return KvDtypeName(parameter.param.dtype) + std::string("x") +
                                  std::to_string(parameter.param.head_dim);
                         });

TEST(SparseAttentionTile, SkipsChunksThatNobodySees) {
  const Cache cache(16, 1, KvDtype::kF16, kTokens);
  const Layer layer({{.window = 10, .global = 2}});
  const std::vector<AttentionQuery> queries = {{nullptr, nullptr, 1400}, {nullptr, nullptr, 1409}};
  const QueryTile tile = QueryTile::Of(queries, layer.Head(cache), 0, 1.0F);
  ASSERT_EQ(tile.chunks(), 2);
  EXPECT_EQ(tile.ChunkAt(0), 0);
  EXPECT_EQ(tile.ChunkAt(1), 5);
}

}  // namespace
}  // namespace tandem::core
