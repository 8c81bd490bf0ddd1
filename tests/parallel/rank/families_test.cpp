// Every family and RoPE scaling against `transformers`: tests/golden/families holds tiny models and
// the logits it computed.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>

#include "core/formats/model_file.h"
#include "parallel/sharding/shard_plan.h"
#include "tests/support/forward_runner.h"

namespace tandem::parallel {
namespace {

/// The elements of a .npy file of 4-byte values.
template <typename T>
std::vector<T> ReadNpy(const std::string& path) {
  static_assert(sizeof(T) == 4);
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)),
                                std::istreambuf_iterator<char>());
  if (bytes.size() < 10) return {};
  const size_t header = 10 + static_cast<unsigned char>(bytes[8]) +
                        256 * static_cast<size_t>(static_cast<unsigned char>(bytes[9]));
  std::vector<T> values((bytes.size() - header) / sizeof(T));
  std::memcpy(values.data(), bytes.data() + header, values.size() * sizeof(T));
  return values;
}

class Families : public ::testing::TestWithParam<const char*> {};

TEST_P(Families, EqualTransformersInFloat32) {
  const std::string folder = std::string(TANDEM_SOURCE_DIR) + "/tests/golden/families/";
  const auto file = core::ModelFile::Open(folder + GetParam() + ".gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  const auto tokens = ReadNpy<int32_t>(folder + "tokens.npy");
  const auto expected = ReadNpy<float>(folder + GetParam() + ".logits.npy");
  ASSERT_EQ(tokens.size() * static_cast<size_t>((*file)->config().vocab), expected.size());

  const auto found = testing::RunForward(**file, tokens,
                                         {.ranks = std::min(2, LargestRankCount((*file)->config())),
                                          .isa = core::BestIsa(),
                                          .activations = core::ActivationMode::kF32,
                                          .kv_dtype = core::KvDtype::kF32,
                                          .chunks = {70, 41}});
  ASSERT_TRUE(found.ok()) << found.status();
  float largest = 0;
  double difference = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::abs(expected[i]));
    difference = std::max(difference, std::abs(double{expected[i]} - found->logits[i]));
  }
  // Both sides sum in float32, in different orders: a few hundred roundings of relative 2^-24, plus
  // the 2^-32 of the leaves.
  EXPECT_LT(difference, 1e-4 * largest) << "largest logit " << largest;
}

INSTANTIATE_TEST_SUITE_P(All, Families,
                         ::testing::Values("llama", "llama_linear", "llama_llama3", "llama_yarn",
                                           "qwen2", "qwen3", "gemma3", "gpt2", "gptneox",
                                           "gptneox_sequential", "falcon", "falcon_grouped",
                                           "starcoder2", "stablelm", "stablelm_parallel", "phi2",
                                           "bloom", "mpt", "llama_layer", "llama_batch"),
                         [](const auto& name) { return std::string(name.param); });

}  // namespace
}  // namespace tandem::parallel
