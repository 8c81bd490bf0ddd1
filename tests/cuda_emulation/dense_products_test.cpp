// How often fast mode converts what several of its products share.

#include <gtest/gtest.h>

#include "core/cuda/cuda_operations.h"
#include "tests/core/cpu/linear/weight_samples.h"
#include "tests/core/cuda/gpu.h"
#include "tests/cuda_emulation/streams.h"

namespace tandem::core {
namespace {

using ::tandem::testing::RandomFloats;
using ::tandem::testing::SameBits;

constexpr int64_t kTokens = 70;
constexpr int64_t kColumns = 96;

class SharedInput : public ::testing::TestWithParam<DType> {
 protected:
  SharedInput() {
    for (int i = 0; i < 3; ++i) {
      const int64_t rows = 32 * (3 - i);
      samples_.push_back(MakeWeights(GetParam(), rows, kColumns, 1 + static_cast<uint32_t>(i)));
      auto packed = operations_.Pack(samples_.back().source(), {0, rows}, {0, kColumns});
      EXPECT_TRUE(packed.ok()) << packed.status();
      weights_.push_back(*std::move(packed));
    }
  }

  static ModelConfig Config() {
    ModelConfig config;
    config.dim = config.ffn_dim = kColumns;
    config.heads = config.kv_heads = 1;
    config.head_dim = 32;
    config.vocab = 32;
    config.layers = 1;
    config.layer_window = {0};
    return config;
  }

  Tensor Input(uint64_t seed) {
    const std::vector<float> values = RandomFloats(kTokens * kColumns, seed);
    Tensor x(operations_.memory(), kColumns);
    x.SetRows(kTokens);
    const CopyRun run{reinterpret_cast<std::byte*>(x.data()),
                      reinterpret_cast<std::byte*>(const_cast<float*>(values.data())),
                      values.size() * sizeof(float)};
    ThrowDeviceFailure(operations_.memory().CopyFromHost({&run, 1}));
    return x;
  }
  std::vector<float> Read(const Tensor& x) {
    std::vector<float> values(static_cast<size_t>(x.rows() * x.columns()));
    operations_.ReadRows(x, {0, x.rows()}, values.data(), x.columns());
    return values;
  }

  /// The products of x with all weights, of one call or one after the other, and how many kernels
  /// made them.
  std::pair<std::vector<std::vector<float>>, uint64_t> Products(const Tensor& x, bool together) {
    std::vector<Tensor> outs;
    for (const WeightSample& sample : samples_)
      outs.emplace_back(operations_.memory(), sample.rows);
    const uint64_t before = cuda_emulation::Launches();
    if (together) {
      operations_.Linear(x, {{weights_[0].get(), nullptr, &outs[0]},
                             {weights_[1].get(), nullptr, &outs[1]},
                             {weights_[2].get(), nullptr, &outs[2]}});
    } else {
      for (size_t i = 0; i < 3; ++i)
        operations_.Linear(x, {{weights_[i].get(), nullptr, &outs[i]}});
    }
    const uint64_t launches = cuda_emulation::Launches() - before;
    std::vector<std::vector<float>> values;
    for (const Tensor& out : outs) values.push_back(Read(out));
    return {values, launches};
  }

  const ModelConfig config_ = Config();
  CudaOperations operations_{config_, WholeModel(config_), {.threads = 1, .exact = false}};
  std::vector<WeightSample> samples_;
  std::vector<std::unique_ptr<Weight>> weights_;
};

INSTANTIATE_TEST_SUITE_P(Types, SharedInput, ::testing::Values(DType::kQ8_0, DType::kF32),
                         DTypeParamName);

TEST_P(SharedInput, IsConvertedOnce) {
  for (const uint64_t seed : {1, 2}) {  // the second input is not taken for the first
    const Tensor x = Input(seed);
    const auto [together, launches] = Products(x, true);
    const auto [alone, launches_alone] = Products(x, false);
    EXPECT_EQ(launches + 2, launches_alone);
    for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(SameBits(together[i], alone[i])) << i;
  }
}

TEST_P(SharedInput, IsConvertedOnceForGateAndUp) {
  const Tensor x = Input(3);
  PartialSums sums(operations_.memory(), samples_[0].rows);
  const WeightVector no_bias;
  const FeedForwardBlock block{Activation::kSilu, weights_[0].get(), *weights_[0],
                               no_bias,           *weights_[0],      kColumns};
  const uint64_t before = cuda_emulation::Launches();
  operations_.FeedForwardPartialSums(x, block, sums);
  // The input, and what the activation makes of it, are converted; three products expand and
  // multiply; the activation; the partial sums.
  EXPECT_EQ(cuda_emulation::Launches() - before, 2U + 3 * 2 + 1 + 1);
}

}  // namespace
}  // namespace tandem::core
