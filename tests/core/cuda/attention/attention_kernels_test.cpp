#include "core/cuda/attention/attention_kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/cpu/attention/attention.h"
#include "core/cpu/elementwise/elementwise.h"
#include "core/cuda/cuda_sparse_step.h"
#include "tests/core/cuda/gpu.h"
#include "tests/core/cuda/thread_order.h"

namespace tandem::core {
namespace {

using ::tandem::testing::OnGpu;
using ::tandem::testing::RandomFloats;
using ::tandem::testing::SameBits;

constexpr Isa kTwin = Isa::kAvx2;

/// A batch: for each sequence the position of its first token of the step, and their number.
struct Sequence {
  int32_t start;
  int32_t tokens;
};

struct Case {
  std::string name;
  int head_dim = 64;
  int kv_heads = 1;
  int group = 1;  // query heads of a KV head
  int window = 0;
  KvDtype dtype = KvDtype::kF16;
  std::vector<Sequence> sequences;
  RopeLayout layout = RopeLayout::kHalves;
  int rotary = 0;  // dimensions; 0: all
  AttentionForm form = {};
  float alibi_max_bias = 0.0F;
};

/// What the tokens of a step see in its layer; null: attention is dense.
std::unique_ptr<SparseAttention> SparseOf(const Case& c) {
  if (!c.form.sparse()) return nullptr;
  auto sparse = std::make_unique<SparseAttention>(c.form);
  sparse->Begin();
  for (const Sequence& s : c.sequences) sparse->Prepare(1, s.start, s.start + s.tokens - 1);
  return sparse;
}

/// Whether a sequence's block is neither seen nor written by the step.
bool IsGone(const Case& c, const SparseAttention* sparse, const Sequence& sequence,
            int32_t position) {
  if (sparse == nullptr) {
    return c.window != 0 && position + kPageTokens <= sequence.start - c.window + 1;
  }
  for (int32_t p = sequence.start; p < sequence.start + sequence.tokens; ++p) {
    const bool sees = sparse->SightOf(1, c.window, p).OfBlock(position / kPageTokens) != 0;
    if (sees || p / kPageTokens == position / kPageTokens) return false;
  }
  return true;
}

/// One layer's cache, on both sides, where all sequences' blocks are scattered and what was never
/// written is NaN; and a step's places.
class CacheTwins {
 public:
  CacheTwins(const Case& c, CudaMemory& memory) : memory_(memory), tables_(c.sequences.size()) {
    BlockId blocks = 0;
    for (const Sequence& s : c.sequences) {
      for (int32_t p = 0; p < s.start + s.tokens; p += kPageTokens) ++blocks;
    }
    KvGeometry geometry;
    geometry.groups = {{.window = c.window, .layers = {0, 1}}};
    geometry.layers = 2;
    geometry.kv_heads = c.kv_heads;
    geometry.head_dim = c.head_dim;
    geometry.dtype = c.dtype;
    const int64_t stride = geometry.BlockBytes(0);
    host_.assign(static_cast<size_t>(blocks * stride), std::byte{0xff});
    device_ = memory.Allocate(blocks * stride);
    const auto view_of = [&](std::byte* base) {
      const int64_t layer_bytes = geometry.PageBytes() * geometry.kv_heads;
      return KvView(geometry, {{base, stride, 0}, {base + layer_bytes, stride, 0}});
    };
    host_view = view_of(host_.data());
    device_view = view_of(device_.get());
    BlockId next = blocks;
    const std::unique_ptr<SparseAttention> sparse = SparseOf(c);
    for (size_t s = 0; s < tables_.size(); ++s) {
      const Sequence& sequence = c.sequences[s];
      for (int32_t p = 0; p < sequence.start + sequence.tokens; p += kPageTokens) {
        tables_[s].push_back(IsGone(c, sparse.get(), sequence, p) ? kNoBlock : --next);
      }
    }
    AddPlaces(c);
  }

  const std::vector<BlockId>& table(size_t sequence) const { return tables_[sequence]; }
  TokenPlaces places() const {
    return {positions_->data(), begins_->data(), blocks_->data(), static_cast<int64_t>(tokens)};
  }

  /// What stands before the step, the same on both sides.
  void FillHistory(const Case& c) {
    uint64_t seed = 100;
    for (size_t s = 0; s < tables_.size(); ++s) {
      for (int32_t p = 0; p < c.sequences[s].start; ++p) {
        const BlockId block = tables_[s][static_cast<size_t>(p / kPageTokens)];
        if (block == kNoBlock) continue;
        for (int head = 0; head < c.kv_heads; ++head) {
          const std::vector<float> key = RandomFloats(c.head_dim, ++seed);
          const std::vector<float> value = RandomFloats(c.head_dim, ++seed);
          StoreKeyValue(host_view.geometry(), host_view.Page(1, head, block), p % kPageTokens, key,
                        value);
        }
      }
    }
    const CopyRun run{device_.get(), host_.data(), host_.size()};
    ThrowDeviceFailure(memory_.CopyFromHost({&run, 1}));
  }

  bool SameCaches() const {
    std::vector<std::byte> read(host_.size());
    const CopyRun run{device_.get(), read.data(), read.size()};
    ThrowDeviceFailure(memory_.CopyToHost({&run, 1}));
    return read == host_;
  }

  KvView host_view;
  KvView device_view;
  std::vector<int32_t> positions;
  std::vector<size_t> sequence_of;
  size_t tokens = 0;

 private:
  void AddPlaces(const Case& c) {
    std::vector<int32_t> begins;
    std::vector<int32_t> blocks = {77777};  // none of ours
    for (size_t s = 0; s < tables_.size(); ++s) {
      for (int32_t i = 0; i < c.sequences[s].tokens; ++i) {
        positions.push_back(c.sequences[s].start + i);
        sequence_of.push_back(s);
        begins.push_back(static_cast<int32_t>(blocks.size()));
      }
      blocks.insert(blocks.end(), tables_[s].begin(), tables_[s].end());
    }
    tokens = positions.size();
    positions_ = std::make_unique<OnGpu<int32_t>>(memory_, positions);
    begins_ = std::make_unique<OnGpu<int32_t>>(memory_, begins);
    blocks_ = std::make_unique<OnGpu<int32_t>>(memory_, blocks);
  }

  CudaMemory& memory_;
  std::vector<std::vector<BlockId>> tables_;
  std::vector<std::byte> host_;
  std::shared_ptr<std::byte> device_;
  std::unique_ptr<OnGpu<int32_t>> positions_;
  std::unique_ptr<OnGpu<int32_t>> begins_;
  std::unique_ptr<OnGpu<int32_t>> blocks_;
};

class CudaAttention : public ::testing::TestWithParam<Case> {
 protected:
  CudaAttention() {
    testing::SetThreadOrder(static_cast<uint64_t>(c_.head_dim * 100 + c_.group));
    cache_.FillHistory(c_);
  }

  int64_t Elements(int heads) const {
    return static_cast<int64_t>(cache_.tokens) * heads * c_.head_dim;
  }
  std::span<float> Head(std::vector<float>& rows, int heads, size_t token, int head) const {
    const auto n = static_cast<size_t>(c_.head_dim);
    return std::span(rows).subspan(
        (token * static_cast<size_t>(heads) + static_cast<size_t>(head)) * n, n);
  }

  /// Rotates and stores on both sides: queries are rotated after.
  void RotateAndStoreBoth();
  void AttendOnCpu(std::vector<float>& out);
  void AttendOnGpu(const OnGpu<float>& query, int64_t tokens_together, bool neighbours,
                   const OnGpu<float>& out, bool fast = false);

  const Case c_ = GetParam();
  const int query_heads_ = c_.kv_heads * c_.group;
  const std::vector<float> slopes_ = AlibiSlopes(c_.alibi_max_bias, query_heads_);
  const std::unique_ptr<SparseAttention> sparse_ = SparseOf(c_);
  CudaMemory memory_;
  CacheTwins cache_{c_, memory_};
  std::vector<float> query_ = RandomFloats(Elements(query_heads_), 1);
  std::vector<float> key_ = RandomFloats(Elements(c_.kv_heads), 2);
  std::vector<float> value_ = RandomFloats(Elements(c_.kv_heads), 3);
};

void CudaAttention::RotateAndStoreBoth() {
  Rope rope;
  rope.layout = c_.layout;
  const auto pairs = static_cast<size_t>((c_.rotary == 0 ? c_.head_dim : c_.rotary) / 2);
  for (size_t i = 0; i < pairs; ++i) {
    rope.inverse_frequencies.push_back(
        1.0 / std::pow(1e4, static_cast<double>(i) / static_cast<double>(pairs)));
  }
  std::vector<float> angles;  // [tokens, 2, pairs]
  const OnGpu<float> query(memory_, query_);
  const OnGpu<float> key(memory_, key_);
  const OnGpu<float> value(memory_, value_);
  for (size_t t = 0; t < cache_.tokens; ++t) {
    std::vector<float> cosines(pairs);
    std::vector<float> sines(pairs);
    RopeAngles(rope, cache_.positions[t], cosines, sines);
    angles.insert(angles.end(), cosines.begin(), cosines.end());
    angles.insert(angles.end(), sines.begin(), sines.end());
    const auto rotate = [&](std::span<float> x) { Rotate(kTwin, c_.layout, cosines, sines, x); };
    for (int head = 0; head < query_heads_; ++head) rotate(Head(query_, query_heads_, t, head));
    for (int head = 0; head < c_.kv_heads; ++head) {
      const std::span<float> rotated = Head(key_, c_.kv_heads, t, head);
      rotate(rotated);
      const int32_t position = cache_.positions[t];
      const BlockId block =
          cache_.table(cache_.sequence_of[t])[static_cast<size_t>(position / kPageTokens)];
      StoreKeyValue(cache_.host_view.geometry(), cache_.host_view.Page(1, head, block),
                    position % kPageTokens, rotated, Head(value_, c_.kv_heads, t, head));
    }
  }
  const OnGpu<float> gpu_angles(memory_, angles);
  const TokenPlaces places = cache_.places();
  LaunchRotateAndStore(memory_.stream(),
                       {.layout = c_.layout,
                        .cosines_sines = gpu_angles.data(),
                        .pairs = static_cast<int64_t>(pairs),
                        .query = query.data(),
                        .key = key.data(),
                        .value = value.data(),
                        .query_heads = query_heads_,
                        .kv_heads = c_.kv_heads,
                        .head_dim = c_.head_dim},
                       places, LayerOf(cache_.device_view, 1, places), c_.dtype);
  EXPECT_TRUE(SameBits(query.Read(), query_));
  EXPECT_TRUE(SameBits(key.Read(), key_));
}

void CudaAttention::AttendOnCpu(std::vector<float>& out) {
  for (size_t t = 0; t < cache_.tokens; ++t) {
    for (int head = 0; head < query_heads_; ++head) {
      const AttentionQuery query{Head(query_, query_heads_, t, head).data(),
                                 Head(out, query_heads_, t, head).data(), cache_.positions[t],
                                 slopes_.empty() ? 0.0F : slopes_[static_cast<size_t>(head)]};
      AttendQueries(kTwin, {&query, 1},
                    {&cache_.host_view, 1, head / c_.group, cache_.table(cache_.sequence_of[t]),
                     sparse_.get()},
                    c_.window, 0.125F);
    }
  }
}

void CudaAttention::AttendOnGpu(const OnGpu<float>& query, int64_t tokens_together, bool neighbours,
                                const OnGpu<float>& out, bool fast) {
  std::vector<HeadRun> runs;
  int largest = 0;
  for (int kv_head = 0; kv_head < c_.kv_heads; ++kv_head) {
    for (int head = 0; head < c_.group; head += kMostHeadsTogether) {
      const int count = std::min(kMostHeadsTogether, c_.group - head);
      runs.push_back({kv_head * c_.group + head, count, kv_head});
      largest = std::max(largest, count);
    }
  }
  const OnGpu<HeadRun> gpu_runs(memory_, runs);
  const OnGpu<float> gpu_slopes(memory_, slopes_.empty() ? std::vector<float>{0.0F} : slopes_);
  const TokenPlaces places = cache_.places();
  const auto tokens = static_cast<int64_t>(cache_.tokens);
  ModelConfig config;
  config.layers = 2;
  config.layer_window = {c_.window, c_.window};
  config.attention = c_.form;
  CudaSparseStep sparse(config, memory_);
  if (sparse_ != nullptr) {
    const int group = SparseGroupTokens(largest, neighbours);
    sparse.Begin(cache_.positions, group);
    tokens_together = std::max<int64_t>(group, tokens_together / group * group);
  }
  for (int64_t first = 0; first < tokens; first += tokens_together) {
    AttentionStep step{.query = query.data(),
                       .runs = gpu_runs.data(),
                       .run_count = static_cast<int>(runs.size()),
                       .largest_run = largest,
                       .query_heads = query_heads_,
                       .head_dim = c_.head_dim,
                       .window = c_.window,
                       .neighbours = neighbours,
                       .scale = 0.125F,
                       .slopes = slopes_.empty() ? nullptr : gpu_slopes.data(),
                       .first_token = first,
                       .tokens = std::min(tokens_together, tokens - first),
                       .out = out.data()};
    int64_t first_position = std::numeric_limits<int64_t>::max();
    int64_t last_position = 0;
    for (int64_t t = first; t < first + step.tokens; ++t) {
      const int64_t position = cache_.positions[static_cast<size_t>(t)];
      first_position = std::min(
          first_position, c_.window == 0 ? 0 : std::max<int64_t>(0, position - c_.window + 1));
      last_position = std::max(last_position, position);
    }
    step.first_chunk = first_position / kChunkTokens;
    step.chunks = last_position / kChunkTokens - step.first_chunk + 1;
    if (sparse_ != nullptr) step.chunks = sparse.MostChunks(1);
    const OnGpu<float> results(memory_, step.ResultFloats());
    step.results = results.data();
    const CacheLayer layer = LayerOf(cache_.device_view, 1, places);
    if (fast) {
      LaunchFastAttention(memory_.stream(), step, places, layer);
    } else if (sparse_ != nullptr) {
      LaunchSparseAttention(memory_.stream(), step, sparse.Of(1), places, layer, c_.dtype);
    } else {
      LaunchAttention(memory_.stream(), step, places, layer, c_.dtype);
    }
  }
}

TEST_P(CudaAttention, RotatesAndStoresAsTheCpu) {
  RotateAndStoreBoth();
  EXPECT_TRUE(cache_.SameCaches());
}

TEST_P(CudaAttention, WhatIsNotFiniteIsNanOnBoth) {
  const float infinity = std::numeric_limits<float>::infinity();
  key_[0] = infinity;
  key_.back() = std::numeric_limits<float>::quiet_NaN();
  query_[query_.size() / 2] = -infinity;
  RotateAndStoreBoth();
  std::vector<float> expected(query_.size());
  AttendOnCpu(expected);
  const OnGpu<float> query(memory_, query_);
  for (const bool neighbours : {false, true}) {
    const OnGpu<float> out(memory_, Elements(query_heads_));
    AttendOnGpu(query, 1000, neighbours, out);
    EXPECT_TRUE(SameBits(out.Read(), expected)) << neighbours;
  }
}

TEST_P(CudaAttention, GivesTheBitsOfTheCpu) {
  RotateAndStoreBoth();
  std::vector<float> expected(query_.size());
  AttendOnCpu(expected);
  const OnGpu<float> query(memory_, query_);
  for (const bool neighbours : {false, true}) {
    for (const int64_t together : {1, 3, 1000}) {
      const OnGpu<float> out(memory_, Elements(query_heads_));
      AttendOnGpu(query, together, neighbours, out);
      EXPECT_TRUE(SameBits(out.Read(), expected)) << together << neighbours;
    }
  }
}

TEST_P(CudaAttention, FastModeIsNear) {
  if (sparse_ != nullptr || !slopes_.empty()) return;  // fast mode attends as exact mode
  if (!HasFastAttention(c_.head_dim, c_.dtype)) {      // fast mode attends as exact mode
    EXPECT_TRUE(c_.dtype != KvDtype::kF16 || c_.head_dim > 128);
    return;
  }
  RotateAndStoreBoth();
  std::vector<float> expected(query_.size());
  AttendOnCpu(expected);
  const OnGpu<float> query(memory_, query_);
  const OnGpu<float> out(memory_, Elements(query_heads_));
  AttendOnGpu(query, 1000, true, out, /*fast=*/true);
  const std::vector<float> found = out.Read();
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(found[i], expected[i], 2e-3F + 1e-2F * std::abs(expected[i])) << i;
  }
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const int group : {1, 2, 3, 4, 5, 6, 7, 8, 16}) {
    cases.push_back({.name = fmt::format("GroupsOf{}", group),
                     .kv_heads = 2,
                     .group = group,
                     .sequences = {{70, 1}, {300, 2}}});
  }
  for (const int head_dim : {64, 80, 96, 128, 192, 256}) {
    for (const KvDtype dtype : kKvDtypes) {
      cases.push_back({.name = fmt::format("HeadsOf{}{}", head_dim, KvDtypeName(dtype)),
                       .head_dim = head_dim,
                       .group = 2,
                       .dtype = dtype,
                       .sequences = {{0, 5}, {255, 3}}});
    }
  }
  for (const int window : {1, 24, 64, 200, 256, 600}) {
    cases.push_back({.name = fmt::format("WindowOf{}", window),
                     .kv_heads = 1,
                     .group = 2,
                     .window = window,
                     .sequences = {{0, 3}, {250, 10}, {700, 2}}});
  }
  cases.push_back({.name = "SeventyTokens", .kv_heads = 1, .group = 2, .sequences = {{0, 70}}});
  cases.push_back({.name = "ManySequences",
                   .kv_heads = 2,
                   .sequences = {{0, 1}, {63, 1}, {64, 2}, {127, 1}, {511, 2}, {1000, 1}}});
  cases.push_back({.name = "AdjacentPairs",
                   .group = 4,
                   .sequences = {{30, 9}},
                   .layout = RopeLayout::kAdjacentPairs});
  for (const int group : {1, 3, 8}) {
    cases.push_back({.name = fmt::format("Float8GroupsOf{}", group),
                     .kv_heads = 2,
                     .group = group,
                     .window = group == 3 ? 100 : 0,
                     .dtype = KvDtype::kF8,
                     .sequences = {{0, 3}, {70, 1}, {250, 10}, {700, 2}}});
  }
  cases.push_back({.name = "Float8OddPairs",
                   .head_dim = 70,
                   .group = 2,
                   .dtype = KvDtype::kF8,
                   .sequences = {{40, 30}}});
  for (const int group : {1, 3, 8}) {
    cases.push_back({.name = fmt::format("AlibiGroupsOf{}", group),
                     .kv_heads = 2,
                     .group = group,
                     .window = group == 3 ? 100 : 0,
                     .dtype = group == 8 ? KvDtype::kF8 : KvDtype::kF16,
                     .sequences = {{0, 3}, {250, 10}, {700, 2}},
                     .alibi_max_bias = 8.0F});
  }
  cases.push_back({.name = "RotatedInPart", .head_dim = 96, .sequences = {{60, 9}}, .rotary = 40});
  return cases;
}

std::vector<Case> SparseCases() {
  const AttentionForm forms[] = {
      {.window = 1},
      {.window = 40, .global = 5},
      {.window = 20, .global = 70, .random = 2, .seed = 7},
      {.window = 70, .random = 3},
      {.window = 33, .global = 10, .random = 1000},
      {.window = 3000, .global = 1},
  };
  std::vector<Case> cases;
  for (const int group : {1, 2, 3, 8, 9}) {
    for (const AttentionForm& form : forms) {
      cases.push_back({.name = fmt::format("SparseGroupsOf{}Form{}", group, cases.size()),
                       .kv_heads = group < 8 ? 2 : 1,
                       .group = group,
                       .sequences = {{0, 2}, {700, 1}, {317, 6}, {893, 4}},
                       .form = form});
    }
  }
  cases.push_back({.name = "SparseAlibi",
                   .kv_heads = 2,
                   .group = 3,
                   .sequences = {{0, 2}, {700, 1}, {317, 6}},
                   .form = forms[2],
                   .alibi_max_bias = 8.0F});
  for (const KvDtype dtype : kKvDtypes) {
    for (const int head_dim : {70, 128, 256}) {
      cases.push_back({.name = fmt::format("SparseHeadsOf{}{}", head_dim, KvDtypeName(dtype)),
                       .head_dim = head_dim,
                       .group = 4,
                       .dtype = dtype,
                       .sequences = {{1000, 3}, {60, 9}},
                       .form = {.window = 30, .global = 3, .random = 2}});
    }
  }
  for (const int window : {1, 100, 600}) {
    for (const AttentionForm& form : forms) {
      cases.push_back({.name = fmt::format("SparseInWindowOf{}Form{}", window, cases.size()),
                       .group = 2,
                       .window = window,
                       .sequences = {{250, 9}, {900, 2}},
                       .form = form});
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(SparseCases, CudaAttention, ::testing::ValuesIn(SparseCases()),
                         [](const auto& of) { return of.param.name; });
INSTANTIATE_TEST_SUITE_P(Cases, CudaAttention, ::testing::ValuesIn(Cases()),
                         [](const auto& of) { return of.param.name; });

}  // namespace
}  // namespace tandem::core
