#include "core/cpu/linear/quantize_scale.h"
#include "core/cuda/kernels/device_code.h"
#include "core/cuda/kernels/fragment_format.h"
#include "core/cuda/kernels/launch.h"
#include "core/cuda/kernels/quantize_kernels.h"

namespace tandem::core {
namespace {

constexpr unsigned kWarps = 4;  // of a block
constexpr unsigned kAllLanes = 0xffffffff;

/// A warp rounds a block of 32 columns.
__global__ void QuantizeBlocks(const float* x, int64_t rows, int64_t columns, CodeRows out) {
  BeginKernel();
  const int lane = static_cast<int>(threadIdx.x) % kBlockColumns;
  const int64_t index = int64_t{blockIdx.x} * kWarps + threadIdx.x / kBlockColumns;
  if (index >= rows * out.blocks) return;  // the whole warp
  const int64_t column = index % out.blocks * kBlockColumns + lane;
  const float value = column < columns ? x[index / out.blocks * columns + column] : 0.0F;

  uint32_t magnitude = __float_as_uint(value) & 0x7fffffff;  // ordered as floats are, NaN last
  for (int other = kBlockColumns / 2; other > 0; other /= 2) {
    const uint32_t theirs = __shfl_xor_sync(kAllLanes, magnitude, other);
    if (theirs > magnitude) magnitude = theirs;
  }
  const BlockScale scale = ScaleOfBlock(magnitude);
  const int32_t code = scale.inverse == 0 ? 0 : __float2int_rn(value * scale.inverse);
  out.codes[index * kBlockColumns + CodePlace(lane)] = static_cast<int8_t>(code);
  int32_t sum = code;
  for (int other = kBlockColumns / 4; other > 0; other /= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, other);
  }
  if (lane == 0) out.scales[index] = scale.scale;
  if (lane % (kBlockColumns / 2) == 0) out.sums[2 * index + lane / (kBlockColumns / 2)] = sum;
}

}  // namespace

void LaunchQuantize(CudaStream stream, const float* x, int64_t rows, int64_t columns,
                    const CodeRows& out) {
  Launch(stream, Blocks(rows * out.blocks, kWarps), kWarps * kBlockColumns, 0, QuantizeBlocks, x,
         rows, columns, out);
}

}  // namespace tandem::core
