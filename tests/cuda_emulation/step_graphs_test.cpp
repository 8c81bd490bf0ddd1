// Steps as graphs: the same bits with and without, and what is in a graph.

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>

#include "core/device/device.h"
#include "core/formats/model_file.h"
#include "tests/cuda_emulation/gpus.h"
#include "tests/cuda_emulation/streams.h"
#include "tests/support/forward_runner.h"
#include "tests/support/random.h"
#include "tests/support/tiny_model.h"

namespace tandem::core {
namespace {

using testing::ForwardOptions;
using testing::TinyModelShape;

class StepGraphs : public ::testing::TestWithParam<TinyModelShape> {
 protected:
  StepGraphs()
      : bytes_(testing::TinyModel(GetParam().spec)),
        file_(*ModelFile::OpenBuffer(bytes_, GetParam().name)) {
    cuda_emulation::SetGpus({.count = 3});
  }
  ~StepGraphs() override { cuda_emulation::SetGpus({}); }

  /// Logits of `tokens`, and how many graphs were launched for them.
  std::vector<float> Run(std::span<const int32_t> tokens, ForwardOptions options, bool graphs,
                         uint64_t& launches) {
    std::atomic<int> gpu = 0;
    options.device = [&](const ModelConfig& config, const Shard& shard) {
      return MakeDevice({.kind = DeviceKind::kCuda,
                         .cpu = {},
                         .gpu = {.index = gpu++, .name = {}, .id = {}},
                         .graphs = graphs},
                        config, shard);
    };
    if (options.ranks > 1) options.linker = [] { return OpenLinker(DeviceKind::kCuda); };
    const uint64_t before = cuda_emulation::GraphLaunches();
    const auto found = testing::RunForward(*file_, tokens, options);
    EXPECT_TRUE(found.ok()) << found.status();
    launches = cuda_emulation::GraphLaunches() - before;
    return found.ok() ? found->logits : std::vector<float>();
  }

  void ExpectTheSame(std::span<const int32_t> tokens, const ForwardOptions& options,
                     uint64_t least_launches) {
    uint64_t launches = 0;
    const std::vector<float> expected = Run(tokens, options, false, launches);
    EXPECT_EQ(launches, 0);
    const std::vector<float> found = Run(tokens, options, true, launches);
    EXPECT_GE(launches, least_launches);
    ASSERT_EQ(found.size(), expected.size());
    EXPECT_EQ(std::memcmp(found.data(), expected.data(), found.size() * sizeof(float)), 0);
  }

  const std::vector<std::byte> bytes_;
  const std::unique_ptr<ModelFile> file_;
};

TEST_P(StepGraphs, GiveTheBitsOfSingleLaunches) {
  const auto tokens = testing::RandomTokens(40, GetParam().spec.vocab, 5);
  // The first step of a shape is eager, the second one is captured, and the others are launches:
  // so are all but the prompt and the first.
  ExpectTheSame(tokens, {.chunks = {20, 1}}, 19);
  ExpectTheSame(tokens, {.chunks = {3}}, 12);
}

TEST_P(StepGraphs, OfSeveralRanksHaveTheReductionsInThem) {
  const auto tokens = testing::RandomTokens(20, GetParam().spec.vocab, 6);
  ExpectTheSame(tokens, {.ranks = 2, .chunks = {9, 1}}, 20);
}

TEST_P(StepGraphs, AreMadeAnewWhereMemoryHasMoved) {
  const auto tokens = testing::RandomTokens(60, GetParam().spec.vocab, 7);
  ExpectTheSame(tokens, {.chunks = {1, 1, 1, 1, 2, 2, 2, 5, 5, 5, 20, 1}}, 10);
  ForwardOptions options{.chunks = {1}};
  options.neighbour = testing::RandomTokens(30, GetParam().spec.vocab, 8);
  ExpectTheSame(tokens, options, 30);
}

INSTANTIATE_TEST_SUITE_P(Models, StepGraphs,
                         ::testing::Values(testing::TinyModelShapes()[1],
                                           testing::TinyModelShapes()[4]),
                         [](const auto& of) { return std::string(of.param.name); });

class StepGraphsOfLongText : public StepGraphs {};

TEST_P(StepGraphsOfLongText, FollowTheChunksOfAttention) {
  const auto tokens = testing::RandomTokens(530, GetParam().spec.vocab, 9);
  ExpectTheSame(tokens, {.chunks = {250, 1, 1, 1, 1, 1, 1, 1, 1, 1, 240, 1}}, 20);
}

INSTANTIATE_TEST_SUITE_P(Models, StepGraphsOfLongText,
                         ::testing::Values(testing::TinyModelShapes().front(),
                                           testing::TinyModelShapes()[4]),
                         [](const auto& of) { return std::string(of.param.name); });

}  // namespace
}  // namespace tandem::core
