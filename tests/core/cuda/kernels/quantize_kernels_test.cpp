#include "core/cuda/kernels/quantize_kernels.h"

#include <gtest/gtest.h>

#include "core/cpu/linear/linear.h"
#include "core/cuda/kernels/fragment_format.h"
#include "tests/core/cuda/gpu.h"

namespace tandem::core {
namespace {

using ::tandem::testing::OnGpu;

class CudaQuantize : public ::testing::TestWithParam<int64_t> {};

/// The codes of the CPU, moved into the GPU's layout.
void ExpectTwin(const std::vector<float>& x, int64_t tokens, int64_t columns) {
  CudaMemory memory;
  ThreadPool pool(1);
  Activations twin;
  twin.Assign(Isa::kAvx2, {x.data(), tokens, columns, columns}, true, pool);
  const int64_t blocks = twin.blocks();
  const OnGpu<float> gpu_x(memory, x);
  const OnGpu<int8_t> gpu_codes(memory, tokens * blocks * 32);
  const OnGpu<float> gpu_scales(memory, tokens * blocks);
  const OnGpu<int32_t> gpu_sums(memory, tokens * blocks * 2);
  LaunchQuantize(memory.stream(), gpu_x.data(), tokens, columns,
                 {gpu_codes.data(), gpu_scales.data(), gpu_sums.data(), blocks});
  const std::vector<int8_t> codes = gpu_codes.Read();
  const std::vector<float> scales = gpu_scales.Read();
  const std::vector<int32_t> sums = gpu_sums.Read();
  for (int64_t t = 0; t < tokens; ++t) {
    const Activations::Group group = twin.group(t / Activations::kGroupTokens);
    const int64_t in_group = t % Activations::kGroupTokens;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t theirs = b * group.tokens + in_group;
      const int64_t ours = t * blocks + b;
      for (int c = 0; c < 32; ++c) {
        ASSERT_EQ(codes[static_cast<size_t>(ours * 32 + CodePlace(c))],
                  group.codes[theirs * 32 + c])
            << t;
      }
      ASSERT_TRUE(
          testing::SameBits({&scales[static_cast<size_t>(ours)], 1}, {group.scales + theirs, 1}));
      for (int64_t half = 0; half < 2; ++half) {
        ASSERT_EQ(sums[static_cast<size_t>(2 * ours + half)],
                  -group.negative_sums[(3 * b + half) * group.tokens + in_group]);
      }
    }
  }
}

TEST_P(CudaQuantize, GivesTheCodesOfTheCpu) {
  for (const int64_t tokens : {1, 3, 8, 21}) {
    ExpectTwin(testing::RandomFloats(tokens * GetParam(), 1), tokens, GetParam());
  }
}

INSTANTIATE_TEST_SUITE_P(Columns, CudaQuantize, ::testing::Values(1, 31, 32, 33, 64, 160, 576),
                         ::testing::PrintToStringParamName());

TEST(CudaQuantizeKernels, RoundWhatIsExtremeAsTheCpu) {
  std::vector<float> x(32 * 8, 1.0F);
  x[0] = std::numeric_limits<float>::infinity();
  x[32] = std::numeric_limits<float>::quiet_NaN();
  for (size_t i = 64; i < 96; ++i) x[i] = 0.0F;
  for (size_t i = 96; i < 128; ++i) x[i] = 1e-40F;
  for (size_t i = 128; i < 160; ++i) x[i] = 3e38F;
  for (size_t i = 160; i < 192; ++i) x[i] = (static_cast<float>(i) - 176.0F) / 2;  // ties
  x[161] = 127.0F;
  x[200] = -0.0F;
  ExpectTwin(x, 1, 256);
  ExpectTwin(x, 2, 128);
}

}  // namespace
}  // namespace tandem::core
