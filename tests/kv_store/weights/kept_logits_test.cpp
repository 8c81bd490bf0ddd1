#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "core/base/mutex.h"
#include "core/cpu/cpu_operations.h"
#include "core/formats/model_file.h"
#include "core/formats/shard_parts.h"
#include "kv_store/weights/kept_weights.h"
#include "tests/support/forward_runner.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_model.h"

namespace tandem::kv_store {
namespace {

using core::ActivationMode;
using testing::ForwardOptions;
using testing::TinyModelShape;

/// Weights of the ranks of one forward pass, kept in a folder.
struct KeptRanks {
  std::vector<std::shared_ptr<KeptWeights>> ranks;  // in no order
  Mutex mutex;

  bool Finish() {
    return std::ranges::all_of(ranks, [](auto& rank) { return rank->Finish().ok(); });
  }
  int64_t found() const {
    return std::ranges::count_if(ranks, [](auto& rank) { return rank->found(); });
  }
};

/// Has the ranks of a pass take their weights from there.
ForwardOptions With(ForwardOptions options, const core::ModelFile& file, const std::string& folder,
                    KeptRanks& kept) {
  options.device =
      [&file, &kept, folder, options](
          const core::ModelConfig& config,
          const core::Shard& shard) -> absl::StatusOr<std::unique_ptr<core::Operations>> {
    std::vector<int64_t> matrices;
    for (const core::ShardPart& part : core::ShardParts(file, shard)) {
      matrices.push_back(
          core::PackedMatrix::BytesOf(part.dtype, part.rows, part.columns, options.activations));
    }
    TANDEM_ASSIGN_OR_RETURN(
        std::shared_ptr<KeptWeights> weights,
        KeptWeights::Open({.path = fmt::format("{}/{}-{}", folder, shard.query_heads.begin,
                                               shard.vocab_rows.begin),
                           .key = "key",
                           .matrices = matrices,
                           .run = [](int64_t tasks, absl::FunctionRef<void(int64_t)> body) {
                             for (int64_t task = 0; task < tasks; ++task) body(task);
                           }}));
    {
      const MutexLock lock(kept.mutex);
      kept.ranks.push_back(weights);
    }
    return std::make_unique<core::CpuOperations>(
        config, shard,
        core::CpuOptions{.isa = options.isa,
                         .activations = options.activations,
                         .threads = options.threads,
                         .packed = weights});
  };
  return options;
}

class KeptLogits : public ::testing::TestWithParam<TinyModelShape> {};
INSTANTIATE_TEST_SUITE_P(Shapes, KeptLogits, ::testing::ValuesIn(testing::TinyModelShapes()),
                         [](const auto& of) { return std::string(of.param.name); });

TEST_P(KeptLogits, AreThoseOfWeightsThatWereRead) {
  std::vector<std::byte> bytes = testing::TinyModel(GetParam().spec);
  const auto file = core::ModelFile::OpenBuffer(bytes, "tiny");
  ASSERT_TRUE(file.ok()) << file.status();
  std::vector<int32_t> tokens(20);
  std::iota(tokens.begin(), tokens.end(), 3);
  for (const ActivationMode mode : {ActivationMode::kQ8, ActivationMode::kF32}) {
    std::vector<ForwardOptions> all;
    for (const int ranks : {1, 2, 3}) {
      all.push_back({.ranks = ranks, .threads = 2, .isa = core::BestIsa(), .activations = mode});
    }
    for (const ForwardOptions& options : all) {
      SCOPED_TRACE(testing::Describe(options));
      const testing::TemporaryDirectory folder;
      const auto read = testing::RunForward(**file, tokens, options);
      if (!read.ok() && options.ranks > 1) continue;  // fewer parts than ranks
      ASSERT_TRUE(read.ok()) << read.status();
      for (const int64_t found : {0, options.ranks}) {
        KeptRanks kept;
        const auto result =
            testing::RunForward(**file, tokens, With(options, **file, folder.path(), kept));
        ASSERT_TRUE(result.ok()) << result.status();
        EXPECT_TRUE(kept.Finish());
        EXPECT_EQ(kept.found(), found);
        ASSERT_EQ(result->logits.size(), read->logits.size());
        EXPECT_EQ(std::memcmp(result->logits.data(), read->logits.data(),
                              read->logits.size() * sizeof(float)),
                  0);
      }
    }
  }
}

TEST(KeptLogits, NeedNoMatrixOfTheFileAnyMore) {
  testing::TinyModelSpec spec;
  spec.dtype = core::DType::kQ8_0;
  spec.tied_head = false;
  std::vector<std::byte> bytes = testing::TinyModel(spec);
  const auto file = core::ModelFile::OpenBuffer(bytes, "tiny");
  ASSERT_TRUE(file.ok()) << file.status();
  const std::vector<int32_t> tokens = {5, 7, 11, 13};
  const testing::TemporaryDirectory folder;
  const ForwardOptions options{.ranks = 2, .threads = 1, .isa = core::BestIsa()};
  std::vector<float> first;
  for (const bool found : {false, true}) {
    KeptRanks kept;
    const auto result =
        testing::RunForward(**file, tokens, With(options, **file, folder.path(), kept));
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_TRUE(kept.Finish());
    if (!found) first = result->logits;
    EXPECT_EQ(result->logits, first);
    for (const core::GgufTensor& tensor : (*file)->gguf().tensors()) {
      if (tensor.dims[1] == 1 || tensor.name == "token_embd.weight") continue;
      std::ranges::fill(std::span(const_cast<std::byte*>(tensor.data.data()), tensor.data.size()),
                        std::byte{0});
    }
  }
}

}  // namespace
}  // namespace tandem::kv_store
