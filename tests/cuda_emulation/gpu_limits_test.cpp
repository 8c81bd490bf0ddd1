// What the launches of kernels take is what the CUDA device takes.

#include "core/cuda/gpu_limits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "core/cuda/attention/attention_kernels.h"
#include "core/cuda/cuda_memory.h"
#include "core/cuda/kernels/elementwise_kernels.h"
#include "core/cuda/kernels/linear_kernels.h"
#include "core/device/device.h"
#include "core/model/device_failure.h"

namespace tandem::core {
namespace {

using ::testing::HasSubstr;

ModelConfig Config() {
  ModelConfig config;
  config.name = "a model";
  config.dim = 96;
  config.ffn_dim = 160;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 32;
  return config;
}

/// A limit: a model or step at it and beyond it, and a launch that no GPU takes beyond it.
struct Limit {
  std::string named;
  std::function<absl::Status(int64_t value)> check;
  int64_t most;
  std::function<void(CudaMemory&, int64_t value)> launch;
};

std::vector<Limit> Limits() {
  const auto with = [](const std::function<void(ModelConfig&, int)>& change) {
    return [change](int64_t value) {
      ModelConfig config = Config();
      change(config, static_cast<int>(value));
      return CheckLimits(DeviceKind::kCuda, config, 100);
    };
  };
  return {{"attention with a head dimension",
           with([](ModelConfig& c, int value) { c.head_dim = value; }), kMostHeadDim,
           [](CudaMemory& memory, int64_t value) {
             AttentionStep step;
             step.run_count = step.query_heads = step.largest_run = kMostHeadsTogether;
             step.head_dim = static_cast<int>(value);
             step.tokens = step.chunks = 1;
             LaunchAttention(memory.stream(), step, {}, {}, KvDtype::kF16);
           }},
          {"rotary embedding with query and KV heads",
           with([](ModelConfig& c, int value) { c.heads = value - c.kv_heads; }), kMostGridRows,
           [](CudaMemory& memory, int64_t value) {
             RotaryHeads heads;
             heads.query_heads = static_cast<int>(value) - 2;
             heads.kv_heads = 2;
             TokenPlaces places;
             places.tokens = 1;
             LaunchRotateAndStore(memory.stream(), heads, places, {}, KvDtype::kF16);
           }},
          {"a product with tokens in a step",
           [](int64_t value) { return CheckLimits(DeviceKind::kCuda, Config(), value); },
           kMostStepTokens,
           [](CudaMemory& memory, int64_t value) {
             const TileMatrix matrix{.dtype = DType::kF32, .rows = 16, .columns = 32};
             LaunchLinear(memory.stream(), matrix, {.codes = {}, .x = nullptr, .tokens = value},
                          nullptr);
           }},
          {"work on rows with columns", with([](ModelConfig& c, int value) { c.ffn_dim = value; }),
           kMostColumns, [](CudaMemory& memory, int64_t value) {
             LaunchAddToRows(memory.stream(), nullptr, 1, value, nullptr);
           }}};
}

TEST(GpuLimits, AreThoseOfTheLaunches) {
  CudaMemory memory;
  for (const Limit& limit : Limits()) {
    SCOPED_TRACE(limit.named);
    EXPECT_TRUE(limit.check(limit.most).ok()) << limit.check(limit.most);
    const absl::Status refused = limit.check(limit.most + 1);
    EXPECT_EQ(refused.code(), absl::StatusCode::kUnimplemented);
    EXPECT_THAT(Message(refused), HasSubstr("--device cuda: " + limit.named));
    EXPECT_THAT(Message(refused), HasSubstr("is not there for a model"));
    EXPECT_THROW(limit.launch(memory, limit.most + 1), DeviceFailure);
  }
}

TEST(GpuLimits, ACpuHasNone) {
  ModelConfig config = Config();
  config.head_dim = 1 << 20;
  EXPECT_TRUE(CheckLimits(DeviceKind::kCpu, config, 1 << 20).ok());
}

}  // namespace
}  // namespace tandem::core
