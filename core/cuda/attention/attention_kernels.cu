#include "core/cpu/simd/lanes_math.h"
#include "core/cuda/attention/attention_kernels.h"
#include "core/cuda/attention/cache_pages.h"
#include "core/cuda/kernels/device_code.h"
#include "core/cuda/kernels/gpu_lane.h"
#include "core/cuda/kernels/launch.h"

namespace tandem::core {
namespace {

constexpr unsigned kRotateThreads = 2 * kWarpThreads;

__device__ void Store(float* to, float x) { *to = x; }
__device__ void Store(uint16_t* to, float x) { *to = __half_as_ushort(__float2half_rn(x)); }

/// A warp writes the codes of a vector, `stride` apart, and their scale.
__device__ void StoreFloat8(const float* vector, int head_dim, Float8* codes, int stride,
                            float* to_scale) {
  const int lane = static_cast<int>(threadIdx.x % kWarpThreads);
  uint32_t magnitude = 0;
  for (int d = lane; d < head_dim; d += static_cast<int>(kWarpThreads)) {
    const uint32_t bits = MagnitudeBits(vector[d]);
    magnitude = bits > magnitude ? bits : magnitude;
  }
  for (int other = kWarpThreads / 2; other > 0; other /= 2) {
    const uint32_t theirs = __shfl_xor_sync(0xffffffff, magnitude, other);
    magnitude = theirs > magnitude ? theirs : magnitude;
  }
  const Float8Scale scale = ScaleOfFloat8(magnitude);
  if (lane == 0) *to_scale = scale.scale;
  for (int d = lane; d < head_dim; d += static_cast<int>(kWarpThreads)) {
    codes[d * stride] = ToFloat8(vector[d] * scale.inverse);
  }
}

/// A block rotates one head of one token.
template <typename Element>
__global__ void RotateAndStoreKernel(RotaryHeads heads, TokenPlaces places, CacheLayer layer) {
  BeginKernel();
  const int64_t token = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y);
  const bool is_key = head >= heads.query_heads;
  const int64_t kv_at = (token * heads.kv_heads + head - heads.query_heads) * heads.head_dim;
  float* x = is_key ? heads.key + kv_at
                    : heads.query + (token * heads.query_heads + head) * heads.head_dim;
  const float* cosines = heads.cosines_sines + token * 2 * heads.pairs;
  const float* sines = cosines + heads.pairs;
  const bool adjacent = heads.layout == RopeLayout::kAdjacentPairs;
  for (int64_t i = threadIdx.x; i < heads.pairs; i += blockDim.x) {
    float* first = x + (adjacent ? 2 * i : i);
    float* second = adjacent ? first + 1 : first + heads.pairs;
    GpuLane a = GpuLane::Set(*first);
    GpuLane b = GpuLane::Set(*second);
    LanesRotate(GpuLane::Set(cosines[i]), GpuLane::Set(sines[i]), a, b);
    *first = a.v;
    *second = b.v;
  }
  if (!is_key) return;
  __syncthreads();
  const int64_t position = places.positions[token];
  const int64_t slot = position % kPageTokens;
  auto* keys = KeysOf<Element>(places, layer, token, position, head - heads.query_heads);
  Element* values = keys + int64_t{kPageTokens} * heads.head_dim;
  if constexpr (kScaled<Element>) {
    float* scales = ScalesOf(keys, heads.head_dim) + slot;
    if (threadIdx.x < kWarpThreads) {
      StoreFloat8(x, heads.head_dim, keys + slot, kPageTokens, scales);
    } else {
      StoreFloat8(heads.value + kv_at, heads.head_dim, values + slot * heads.head_dim, 1,
                  scales + kPageTokens);
    }
  } else {
    for (int d = static_cast<int>(threadIdx.x); d < heads.head_dim;
         d += static_cast<int>(blockDim.x)) {
      Store(keys + d * kPageTokens + slot, x[d]);
      Store(values + slot * heads.head_dim + d, heads.value[kv_at + d]);
    }
  }
}

}  // namespace

void LaunchRotateAndStore(CudaStream stream, const RotaryHeads& heads, const TokenPlaces& places,
                          const CacheLayer& layer, KvDtype dtype) {
  const dim3 grid(static_cast<unsigned>(places.tokens),
                  static_cast<unsigned>(heads.query_heads + heads.kv_heads));
  const auto launch = [&](auto kernel) {
    Launch(stream, grid, kRotateThreads, 0, kernel, heads, places, layer);
  };
  switch (dtype) {
    case KvDtype::kF16:
      return launch(RotateAndStoreKernel<uint16_t>);
    case KvDtype::kF32:
      return launch(RotateAndStoreKernel<float>);
    case KvDtype::kF8:
      return launch(RotateAndStoreKernel<Float8>);
  }
}

}  // namespace tandem::core
