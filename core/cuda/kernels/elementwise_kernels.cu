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

/// The sum over a row of term(value(i), sum so far), in lane 0 of a block's first warp, which alone
/// comes here.
template <typename Value, typename Term>
__device__ float SumOfRow(int64_t columns, const Value& value, const Term& term) {
  float sum = 0.0F;
  if (threadIdx.x < kLanes) {
    for (int64_t i = threadIdx.x; i < columns; i += kLanes) sum = term(value(i), sum);
  }
  return FoldSum(sum);
}

/// What of a row its norm needs: the mean of kLayer, and one over the deviation.
struct RowScale {
  float mean;
  float scale;
};

/// Floats of shared memory that ScaleOfRow needs.
constexpr int kScaleFloats = 2;

/// The same in all threads of the block. shared: kScaleFloats floats.
template <typename Value>
__device__ RowScale ScaleOfRow(const NormVectors& norm, int64_t columns,
                               const SharedArray<float>& shared, const Value& value) {
  if (norm.kind == NormKind::kBatch) return {0.0F, 1.0F};
  if (threadIdx.x < kWarpThreads) {
    const auto n = static_cast<float>(columns);
    float mean = 0.0F;
    if (norm.kind == NormKind::kLayer) {
      const float sum = SumOfRow(columns, value, [](float v, float so_far) { return so_far + v; });
      mean = __shfl_sync(kAllLanes, __fdiv_rn(sum, n), 0);
    }
    const float squares = SumOfRow(columns, value, [mean](float v, float so_far) {
      const float d = v - mean;
      return fmaf(d, d, so_far);
    });
    if (threadIdx.x == 0) {
      shared[0] = mean;
      shared[1] = __fdiv_rn(1.0F, __fsqrt_rn(__fdiv_rn(squares, n) + norm.epsilon));
    }
  }
  __syncthreads();
  return {shared[0], shared[1]};
}

/// Element i of a row, normalized.
__device__ float Normalized(const NormVectors& norm, const RowScale& row, float v, int64_t i) {
  if (norm.kind == NormKind::kBatch) return fmaf(v, norm.weight[i], norm.bias[i]);
  const float result = ((v - row.mean) * row.scale) * norm.weight[i];
  return norm.bias == nullptr ? result : result + norm.bias[i];
}

__global__ void NormalizeKernel(NormVectors norm, const float* x, int64_t columns, float* out) {
  BeginKernel();
  const int64_t row = int64_t{blockIdx.x} * columns;
  const RowScale scale =
      ScaleOfRow(norm, columns, SharedArray<float>(0), [&](int64_t i) { return x[row + i]; });
  for (int64_t i = threadIdx.x; i < columns; i += blockDim.x) {
    out[row + i] = Normalized(norm, scale, x[row + i], i);
  }
}

__global__ void AddKernel(const float* y, int64_t n, float* x) {
  BeginKernel();
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) x[i] += y[i];
}

__global__ void ActivateKernel(Activation kind, int64_t n, float* x) {
  BeginKernel();
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) x[i] = Activate(kind, x[i], 1.0F);
}

__global__ void AddToRowsKernel(const float* y, int64_t columns, float* x) {
  BeginKernel();
  const int64_t i = int64_t{blockIdx.y} * blockDim.x + threadIdx.x;
  if (i < columns) x[blockIdx.x * columns + i] += y[i];
}

__global__ void GatedActivationKernel(Activation kind, const float* gate, const float* up,
                                      int64_t n, float* out) {
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
  const auto total = [&](int64_t i) {
    const float value =
        from.floats == nullptr ? SumToFloat(from.sums[row + i]) : from.floats[row + i];
    return from.bias == nullptr ? value : value + from.bias[i];
  };
  if (from.post_norm.weight == nullptr) {
    for (int64_t i = threadIdx.x; i < columns; i += blockDim.x) x[row + i] += total(i);
  } else {
    const RowScale scale = ScaleOfRow(from.post_norm, columns, SharedArray<float>(0), total);
    for (int64_t i = threadIdx.x; i < columns; i += blockDim.x) {
      x[row + i] += Normalized(from.post_norm, scale, total(i), i);
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

__global__ void MarkStepKernel(uint32_t number, uint64_t* word) {
  BeginKernel();
  *word = static_cast<uint64_t>(number) << 32;
}

/// Blocks of kRowThreads elements of each row.
dim3 OfRows(int64_t rows, int64_t columns) {
  return {Blocks(rows, 1), Blocks(columns, kRowThreads)};
}

}  // namespace

void LaunchNormalize(CudaStream stream, const NormVectors& norm, const float* x, int64_t rows,
                     int64_t columns, float* out) {
  Launch(stream, Blocks(rows, 1), kRowThreads, kScaleFloats * sizeof(float), NormalizeKernel, norm,
         x, columns, out);
}

void LaunchAdd(CudaStream stream, const float* y, int64_t n, float* x) {
  Launch(stream, Blocks(n, kRowThreads), kRowThreads, 0, AddKernel, y, n, x);
}

void LaunchActivate(CudaStream stream, Activation kind, int64_t n, float* x) {
  Launch(stream, Blocks(n, kRowThreads), kRowThreads, 0, ActivateKernel, kind, n, x);
}

void LaunchAddToRows(CudaStream stream, const float* y, int64_t rows, int64_t columns, float* x) {
  Launch(stream, OfRows(rows, columns), kRowThreads, 0, AddToRowsKernel, y, columns, x);
}

void LaunchGatedActivation(CudaStream stream, Activation kind, const float* gate, const float* up,
                           int64_t n, float* out) {
  Launch(stream, Blocks(n, kRowThreads), kRowThreads, 0, GatedActivationKernel, kind, gate, up, n,
         out);
}

void LaunchAddPartialSums(CudaStream stream, const PartialSumRows& from, int64_t rows,
                          int64_t columns, float* x, uint8_t* token_failed) {
  Launch(stream, Blocks(rows, 1), kRowThreads, kScaleFloats * sizeof(float), AddPartialSumsKernel,
         from, columns, x, token_failed);
}

void LaunchSumsToFloats(CudaStream stream, const int64_t* sums, const int64_t* failed, int64_t rows,
                        int64_t columns, float* out) {
  Launch(stream, OfRows(rows, columns), kRowThreads, 0, SumsToFloatsKernel, sums, failed, columns,
         out);
}

void LaunchMarkStep(CudaStream stream, uint32_t number, uint64_t* word) {
  Launch(stream, 1, 1, 0, MarkStepKernel, number, word);
}

void LaunchSelectRows(CudaStream stream, const float* x, const int32_t* rows, int64_t count,
                      int64_t columns, float* out) {
  Launch(stream, OfRows(count, columns), kRowThreads, 0, SelectRowsKernel, x, rows, columns, out);
}

}  // namespace tandem::core
