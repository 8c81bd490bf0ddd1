#include "core/device/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/cuda/cuda_driver.h"
#include "core/system/host_name.h"

namespace tandem::core {
namespace {

using ::testing::HasSubstr;

TEST(Device, NamesGiveKinds) {
  for (const char* name : {"auto", "cpu"}) {
    const auto kind = ParseDevice(name);
    ASSERT_TRUE(kind.ok()) << kind.status();
    EXPECT_EQ(*kind, DeviceKind::kCpu);
  }
}

TEST(Device, WhatCannotBeUsedIsToldWithItsReason) {
  const CudaDriver driver = FindCudaDriver();
  const auto kind = ParseDevice("cuda");
  ASSERT_TRUE(kind.ok()) << kind.status();
  EXPECT_EQ(*kind, DeviceKind::kCuda);
  const auto gpus = FindGpus(*kind);
  if (!driver.gpus.empty()) {
    ASSERT_TRUE(gpus.ok()) << gpus.status();
    EXPECT_EQ(gpus->size(), driver.gpus.size());
  } else {
    EXPECT_EQ(gpus.status().code(), absl::StatusCode::kUnimplemented);
    EXPECT_THAT(Message(gpus.status()), HasSubstr("--device cuda: host " + HostName()));
    EXPECT_THAT(Message(gpus.status()), HasSubstr(driver.problem));
    EXPECT_THAT(Message(gpus.status()), HasSubstr("--device cpu"));
  }
  const absl::Status unknown = ParseDevice("tpu").status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(unknown), HasSubstr("auto, cpu or cuda"));
}

TEST(Device, AMachineWithoutCudaSaysWhy) {
  const CudaDriver driver = FindCudaDriver();
  EXPECT_EQ(driver.problem.empty(), !driver.gpus.empty()) << driver.problem;
}

TEST(Device, OfCudaAloneIsFastWhereThatIsWanted) {
  EXPECT_TRUE(CheckExact(DeviceKind::kCpu, true).ok());
  EXPECT_TRUE(CheckExact(DeviceKind::kCuda, true).ok());
  EXPECT_TRUE(CheckExact(DeviceKind::kCuda, false).ok());
  const absl::Status fast = CheckExact(DeviceKind::kCpu, false);
  EXPECT_EQ(fast.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(Message(fast), HasSubstr("--no-exact: a CPU is always exact"));
}

TEST(Device, OfACpuComputes) {
  ModelConfig config;
  config.dim = 4;
  config.head_dim = 2;
  config.heads = 2;
  config.kv_heads = 2;
  Shard shard;
  shard.query_heads = {0, 2};
  shard.kv_heads = {0, 2};
  const auto made =
      MakeDevice({.kind = DeviceKind::kCpu, .cpu = {.threads = 2}, .gpu = {}}, config, shard);
  ASSERT_TRUE(made.ok()) << made.status();
  const std::unique_ptr<Operations>& device = *made;
  EXPECT_THAT(std::string(device->device_name()), HasSubstr("cpu"));
  Tensor x(device->memory(), 4);
  x.SetRows(1);
  for (int i = 0; i < 4; ++i) x.row(0)[static_cast<size_t>(i)] = 2.0F;
  Tensor out(device->memory(), 4);
  const std::vector<float> ones(4, 1.0F);
  device->Normalize(x, {NormKind::kRms, 0.0F, WeightVector(device->memory(), ones), WeightVector()},
                    out);
  std::vector<float> read(4);
  device->ReadRows(out, {0, 1}, read.data(), 4);
  EXPECT_THAT(read, ::testing::Each(1.0F));
}

}  // namespace
}  // namespace tandem::core
