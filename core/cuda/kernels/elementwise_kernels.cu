#include "core/cuda/kernels/device_code.h"
#include "core/cuda/kernels/elementwise_kernels.h"
#include "core/cuda/kernels/gpu_lane.h"
#include "core/cuda/kernels/launch.h"

namespace tandem::core {
namespace {

constexpr int kLanes = 16;  // of a sum over a row (numerics.md, rule 5)
constexpr unsigned kRowThreads = 128;
constexpr unsigned kAllLanes = 0xffffffff;

/// The sum of the lanes 0 to 15 of a warp, in lane 0: i with i + 8, 4, 2, 1.
__device__ float FoldSum(float lane_sum) {
  for (unsigned half = kLanes / 2; half > 0; half /= 2) {
    lane_sum += __shfl_down_sync(kAllLanes, lane_sum, half);
  }
  return lane_sum;
}

/// 1 / sqrt(mean of value(i)^2 + epsilon) over a row, the same in all threads of the block.
/// shared_scale: one float.
template <typename Value>
__device__ float RmsScale(int64_t columns, float epsilon, const SharedArray<float>& shared_scale,
                          const Value& value) {
  if (threadIdx.x < kWarpThreads) {
    float squares = 0.0F;
    if (threadIdx.x < kLanes) {
      for (int64_t i = threadIdx.x; i < columns; i += kLanes) {
        const float v = value(i);
        squares = fmaf(v, v, squares);
      }
    }
    const float sum = FoldSum(squares);
    if (threadIdx.x == 0) {
      const float mean = __fdiv_rn(sum, static_cast<float>(columns));
      shared_scale[0] = __fdiv_rn(1.0F, __fsqrt_rn(mean + epsilon));
    }
  }
  __syncthreads();
  return shared_scale[0];
}

__global__ void RmsNormKernel(const float* x, const float* weight, int64_t columns, float epsilon,
                              float* out) {
  BeginKernel();
  const int64_t row = int64_t{blockIdx.x} * columns;
  const SharedArray<float> shared_scale(0);
  const float scale =
      RmsScale(columns, epsilon, shared_scale, [&](int64_t i) { return x[row + i]; });
  for (int64_t i = threadIdx.x; i < columns; i += blockDim.x) {
    out[row + i] = (x[row + i] * scale) * weight[i];
  }
}

__global__ void AddToRowsKernel(const float* y, int64_t columns, float* x) {
  BeginKernel();
  const int64_t i = int64_t{blockIdx.y} * blockDim.x + threadIdx.x;
  if (i < columns) x[blockIdx.x * columns + i] += y[i];
}

__global__ void GatedActivationKernel(Gate kind, const float* gate, const float* up, int64_t n,
                                      float* out) {
  BeginKernel();
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) out[i] = Activate(kind, gate[i], up[i]);
}

__device__ float SumToFloat(int64_t sum) { return __ll2float_rn(sum) * 0x1p-32F; }

__global__ void SumsToFloatsKernel(const int64_t* sums, const int64_t* failed, int64_t columns,
                                   float* out) {
  BeginKernel();
  const int64_t i = int64_t{blockIdx.y} * blockDim.x + threadIdx.x;
  const int64_t at = blockIdx.x * columns + i;
  if (i < columns) out[at] = SumToFloat(sums[at]);
  if (i == 0) out[gridDim.x * columns + blockIdx.x] = failed[blockIdx.x] == 0 ? 0.0F : 1.0F;
}

__global__ void AddPartialSumsKernel(PartialSumRows from, int64_t columns, float* x,
                                     uint8_t* token_failed) {
  BeginKernel();
  const int64_t row = int64_t{blockIdx.x} * columns;
  const SharedArray<float> shared_scale(0);
  const auto total = [&](int64_t i) {
    const float value =
        from.floats == nullptr ? SumToFloat(from.sums[row + i]) : from.floats[row + i];
    return from.bias == nullptr ? value : value + from.bias[i];
  };
  if (from.post_norm == nullptr) {
    for (int64_t i = threadIdx.x; i < columns; i += blockDim.x) x[row + i] += total(i);
  } else {
    const float scale = RmsScale(columns, from.epsilon, shared_scale, total);
    for (int64_t i = threadIdx.x; i < columns; i += blockDim.x) {
      x[row + i] += (total(i) * scale) * from.post_norm[i];
    }
  }
  if (threadIdx.x != 0) return;
  const bool failed = from.floats == nullptr
                          ? from.failed[blockIdx.x] != 0
                          : from.floats[gridDim.x * columns + blockIdx.x] != 0.0F;
  if (failed) token_failed[blockIdx.x] = 1;
  if (from.mark.word != nullptr && blockIdx.x == 0) *from.mark.word = from.mark.number;
}

__global__ void SelectRowsKernel(const float* x, const int32_t* rows, int64_t columns, float* out) {
  BeginKernel();
  const float* from = x + rows[blockIdx.x] * columns;
  const int64_t i = int64_t{blockIdx.y} * blockDim.x + threadIdx.x;
  if (i < columns) out[blockIdx.x * columns + i] = from[i];
}

/// Blocks of kRowThreads elements of each row.
dim3 OfRows(int64_t rows, int64_t columns) {
  return {Blocks(rows, 1), Blocks(columns, kRowThreads)};
}

}  // namespace

void LaunchRmsNorm(CudaStream stream, const float* x, const float* weight, int64_t rows,
                   int64_t columns, float epsilon, float* out) {
  Launch(stream, Blocks(rows, 1), kRowThreads, sizeof(float), RmsNormKernel, x, weight, columns,
         epsilon, out);
}

void LaunchAddToRows(CudaStream stream, const float* y, int64_t rows, int64_t columns, float* x) {
  Launch(stream, OfRows(rows, columns), kRowThreads, 0, AddToRowsKernel, y, columns, x);
}

void LaunchGatedActivation(CudaStream stream, Gate kind, const float* gate, const float* up,
                           int64_t n, float* out) {
  Launch(stream, Blocks(n, kRowThreads), kRowThreads, 0, GatedActivationKernel, kind, gate, up, n,
         out);
}

void LaunchAddPartialSums(CudaStream stream, const PartialSumRows& from, int64_t rows,
                          int64_t columns, float* x, uint8_t* token_failed) {
  Launch(stream, Blocks(rows, 1), kRowThreads, sizeof(float), AddPartialSumsKernel, from, columns,
         x, token_failed);
}

void LaunchSumsToFloats(CudaStream stream, const int64_t* sums, const int64_t* failed, int64_t rows,
                        int64_t columns, float* out) {
  Launch(stream, OfRows(rows, columns), kRowThreads, 0, SumsToFloatsKernel, sums, failed, columns,
         out);
}

void LaunchSelectRows(CudaStream stream, const float* x, const int32_t* rows, int64_t count,
                      int64_t columns, float* out) {
  Launch(stream, OfRows(count, columns), kRowThreads, 0, SelectRowsKernel, x, rows, columns, out);
}

}  // namespace tandem::core
