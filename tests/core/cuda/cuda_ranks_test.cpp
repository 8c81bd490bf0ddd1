// What several GPUs do together, as many as the machine has; with one, NCCL among one rank.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/device/device.h"
#include "core/formats/model_file.h"
#include "parallel/sharding/shard_plan.h"
#include "tests/support/forward_runner.h"
#include "tests/support/random.h"
#include "tests/support/tiny_model.h"

namespace tandem::core {
namespace {

using testing::ForwardOptions;

class CudaRanks : public ::testing::TestWithParam<bool> {
 protected:
  CudaRanks()
      : gpus_(*FindGpus(DeviceKind::kCuda)),
        spec_({.heads = 8, .kv_heads = 4, .dtype = DType::kQ4_0}),
        bytes_(testing::TinyModel(spec_)),
        file_(*ModelFile::OpenBuffer(bytes_, "tiny")) {}

  const std::vector<Gpu> gpus_;
  const testing::TinyModelSpec spec_;
  const std::vector<std::byte> bytes_;
  const std::unique_ptr<ModelFile> file_;
};

TEST_P(CudaRanks, JoinedByNcclGiveTheBitsOfACpu) {
  if (const auto linker = OpenLinker(DeviceKind::kCuda); !linker.ok()) {
    GTEST_SKIP() << Message(linker.status());
  }
  const std::vector<int32_t> tokens = testing::RandomTokens(60, spec_.vocab, 3);
  const auto expected = testing::RunForward(*file_, tokens, {.isa = Isa::kAvx2});
  ASSERT_TRUE(expected.ok()) << expected.status();
  const int most =
      std::min(static_cast<int>(gpus_.size()), parallel::LargestRankCount(file_->config()));
  for (int ranks = 1; ranks <= most; ++ranks) {
    ForwardOptions options{.ranks = ranks, .chunks = {40, 1}};
    options.linker = [] { return OpenLinker(DeviceKind::kCuda); };
    std::atomic<size_t> gpu = 0;
    options.device = [&](const ModelConfig& config, const Shard& shard) {
      return MakeDevice(
          {.kind = DeviceKind::kCuda, .cpu = {}, .gpu = gpus_[gpu++], .graphs = GetParam()}, config,
          shard);
    };
    const auto found = testing::RunForward(*file_, tokens, options);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(std::memcmp(found->logits.data(), expected->logits.data(),
                          expected->logits.size() * sizeof(float)),
              0)
        << ranks << " ranks";
  }
}

INSTANTIATE_TEST_SUITE_P(Steps, CudaRanks, ::testing::Bool(),
                         [](const auto& of) { return of.param ? "Graphs" : "SingleLaunches"; });

}  // namespace
}  // namespace tandem::core
