// Norms of a file against PyTorch's in float64 (tests/golden/norms).

#include "core/transformer/norm_load.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/cpu/elementwise/elementwise.h"
#include "core/model/host_memory.h"
#include "tests/support/tiny_model.h"

namespace tandem::core {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

const json& Golden() {
  static const json golden = [] {
    std::ifstream file(std::string(TANDEM_SOURCE_DIR) + "/tests/golden/norms/norms.json");
    return json::parse(file);
  }();
  return golden;
}

/// A tiny model to which the tensors of a norm named "attn_norm" of n numbers are added.
struct NormFile {
  std::vector<std::byte> bytes;
  std::unique_ptr<ModelFile> file;

  NormFile(const json& norm, std::initializer_list<const char*> parts, NormKind kind) {
    const auto n = static_cast<int>(norm["weight"].size());
    testing::TinyModelSpec spec;
    spec.layers = 1;
    spec.norm = kind;
    spec.dim = n;
    spec.norm_weights = false;
    spec.vectors = [&, parts](std::string_view name) -> std::vector<float> {
      for (const char* part : parts) {
        if (name == std::string("output_norm.") + part) return norm[part].get<std::vector<float>>();
      }
      return {};
    };
    for (const char* part : parts) spec.parts.insert(std::string("output_norm.") + part);
    bytes = testing::TinyModel(spec);
    auto opened = ModelFile::OpenBuffer(bytes, "norms");
    if (!opened.ok()) throw std::runtime_error(std::string(opened.status().message()));
    file = *std::move(opened);
  }
};

/// The largest difference of what a norm gives from the golden rows, by their largest element.
double Difference(const NormRow& norm, const json& inputs, const json& expected) {
  double largest = 0.0;
  double difference = 0.0;
  for (size_t row = 0; row < inputs.size(); ++row) {
    const auto x = inputs[row].get<std::vector<float>>();
    std::vector<float> out(x.size());
    Normalize(BestIsa(), norm, x, out);
    for (size_t i = 0; i < x.size(); ++i) {
      const auto wanted = expected[row][i].get<double>();
      largest = std::max(largest, std::abs(wanted));
      difference = std::max(difference, std::abs(wanted - double{out[i]}));
    }
  }
  return difference / largest;
}

class Norms : public ::testing::TestWithParam<std::pair<const char*, NormKind>> {};

TEST_P(Norms, EqualPyTorchInFloat64) {
  const auto [name, kind] = GetParam();
  ASSERT_FALSE(Golden().empty());
  for (const json& golden : Golden()) {
    const auto epsilon = golden["epsilon"].get<float>();
    const auto n = static_cast<int64_t>(golden["weight"].size());
    HostMemory memory;
    const NormFile file =
        kind == NormKind::kBatch
            ? NormFile(golden, {"weight", "bias", "running_mean", "running_var"}, kind)
            : NormFile(golden, {"weight", "bias"}, kind);
    const auto norm = LoadNorm(*file.file, "output_norm", {kind, epsilon, n}, memory);
    ASSERT_TRUE(norm.ok()) << norm.status();
    const NormRow row{norm->kind, norm->epsilon, norm->weight.values(), norm->bias.values()};
    // Rows around 100 lose 7 bits to their mean.
    EXPECT_LT(Difference(row, golden["x"], golden[name]), n == 300 ? 1e-4 : 2e-6) << n;
  }
}

INSTANTIATE_TEST_SUITE_P(All, Norms,
                         ::testing::Values(std::pair{"rms", NormKind::kRms},
                                           std::pair{"layer", NormKind::kLayer},
                                           std::pair{"batch", NormKind::kBatch}),
                         [](const auto& param) { return std::string(param.param.first); });

TEST(Norms, MissingWeightsAreOnesAndMissingBiasesZeros) {
  const json& golden = Golden()[2];
  HostMemory memory;
  const auto n = static_cast<int64_t>(golden["weight"].size());
  const NormFile file(golden, {"running_mean", "running_var"}, NormKind::kBatch);
  const auto norm = LoadNorm(*file.file, "output_norm", {NormKind::kBatch, 0.0F, n}, memory);
  ASSERT_TRUE(norm.ok()) << norm.status();
  for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
    const double scale = 1.0 / std::sqrt(double{golden["running_var"][i].get<float>()});
    EXPECT_EQ(norm->weight.values()[i], static_cast<float>(scale));
    EXPECT_EQ(norm->bias.values()[i],
              static_cast<float>(-double{golden["running_mean"][i].get<float>()} * scale));
  }
}

TEST(Norms, AVarianceThatIsNotPositiveIsRefused) {
  json golden = Golden()[2];
  HostMemory memory;
  const auto n = static_cast<int64_t>(golden["weight"].size());
  golden["running_var"][5] = -1e-5F;
  const NormFile file(golden, {"running_mean", "running_var"}, NormKind::kBatch);
  const NormSpec spec{NormKind::kBatch, 1e-5F, n};
  const auto norm = LoadNorm(*file.file, "output_norm", spec, memory);
  EXPECT_THAT(std::string(norm.status().message()),
              HasSubstr("tensor 'output_norm.running_var' has -1e-05 at index 5, expected a number "
                        "that is above 0 with the epsilon 1e-05"));
}

}  // namespace
}  // namespace tandem::core
