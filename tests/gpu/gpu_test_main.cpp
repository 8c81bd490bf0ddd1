// The tests of tests/core/cuda on the GPUs of this machine. Where there is none they are skipped
// with one line, and the exit status is 77.

#include <gtest/gtest.h>

#include <cstdio>

#include "core/device/device.h"
#include "tests/core/cuda/thread_order.h"

namespace tandem::testing {

void SetThreadOrder(uint64_t) {}

std::optional<uint64_t> BytesToHost() { return std::nullopt; }

}  // namespace tandem::testing

int main(int count, char** arguments) {
  constexpr int kSkipped = 77;
  const auto gpus = tandem::core::FindGpus(tandem::core::DeviceKind::kCuda);
  if (!gpus.ok()) {
    std::printf("skipped: %s\n", tandem::Message(gpus.status()).c_str());
    return kSkipped;
  }
  for (const tandem::core::Gpu& gpu : *gpus) {
    std::printf("GPU %d: %s\n", gpu.index, gpu.name.c_str());
  }
  testing::InitGoogleTest(&count, arguments);
  return RUN_ALL_TESTS();
}
