#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <string>
#include <string_view>

#include "core/cpu/cpu_operations.h"
#include "core/formats/model_file.h"
#include "core/transformer/transformer.h"
#include "tests/support/models.h"

namespace tandem::core {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
// Sanitizers keep records of their own of all memory that is written.
constexpr int64_t kMostPercentAbove = 900;
#else
constexpr int64_t kMostPercentAbove = 15;
#endif

/// A figure of /proc/self/status, in bytes.
int64_t StatusBytes(const std::string& name) {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.starts_with(name + ":")) return std::stoll(line.substr(name.size() + 1)) * 1024;
  }
  ADD_FAILURE() << "/proc/self/status has no " << name;
  return 0;
}

/// Makes VmHWM, the most memory this process ever had, begin from now (proc(5), clear_refs).
void ResetPeak() { std::ofstream("/proc/self/clear_refs") << "5"; }

/// Loads a model and holds the most memory that took to what its weights take.
void ExpectPeakJustAboveWeights(std::string_view file_name) {
  ResetPeak();
  const int64_t before = StatusBytes("VmRSS");
  const auto file = ModelFile::Open(tandem::testing::ModelPath(file_name));
  ASSERT_TRUE(file.ok()) << file.status();
  const Shard shard = WholeModel((*file)->config());
  CpuOperations operations((*file)->config(), shard, {.isa = BestIsa(), .threads = 2});
  const auto model = Transformer::Load(**file, shard, operations, {});
  ASSERT_TRUE(model.ok()) << model.status();
  const int64_t peak = StatusBytes("VmHWM") - before;
  const int64_t weights = (*model)->weight_bytes();
  EXPECT_GT(peak, weights);  // or the measure is wrong
  EXPECT_LT(peak, weights + weights * kMostPercentAbove / 100)
      << "weights take " << weights << " bytes";
  ::testing::Test::RecordProperty(
      "peak_over_weights",
      std::to_string(static_cast<double>(peak) / static_cast<double>(weights)));
}

TEST(LoadMemory, PeaksJustAboveSmolLM2) {
  ExpectPeakJustAboveWeights("SmolLM2-135M-Instruct.Q4_1.gguf");
}

TEST(LoadMemory, PeaksJustAboveGemma3) { ExpectPeakJustAboveWeights("gemma-3-270m-q4_k_m.gguf"); }

TEST(Load, EndsWithTheErrorOfItsProgress) {
  const auto file = ModelFile::Open(tandem::testing::ModelPath("SmolLM2-135M-Instruct.Q4_1.gguf"));
  ASSERT_TRUE(file.ok()) << file.status();
  const Shard shard = WholeModel((*file)->config());
  CpuOperations operations((*file)->config(), shard, {.isa = BestIsa(), .threads = 2});
  int calls = 0;
  const auto model = Transformer::Load(**file, shard, operations, [&](double, std::string_view) {
    return ++calls == 3 ? absl::CancelledError("enough") : absl::OkStatus();
  });
  EXPECT_EQ(model.status(), absl::CancelledError("enough"));
  EXPECT_EQ(calls, 3);
}

}  // namespace
}  // namespace tandem::core
