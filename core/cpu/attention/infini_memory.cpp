#include "core/cpu/attention/infini_memory.h"

#include <algorithm>

#include "core/cpu/attention/infini_kernels.h"

namespace tandem::core {
namespace {

constexpr InfiniKernels kInfiniScalar = InfiniOf<ScalarLanes<kLanes>>::kTable;
constexpr InfiniKernels kInfiniAvx2 = InfiniOf<Avx2Lanes>::kTable;

/// count vectors of `n` elements, each with its scale, where the dtype has them. scale(i): of
/// element i
template <typename Scale>
void ReadElements(const KvGeometry& geometry, const std::byte* from, int64_t n, Scale scale,
                  float* to) {
  switch (geometry.dtype) {
    case KvDtype::kF32:
      std::copy_n(reinterpret_cast<const float*>(from), n, to);
      return;
    case KvDtype::kF16: {
      const auto* halves = reinterpret_cast<const uint16_t*>(from);
      for (int64_t i = 0; i < n; ++i) to[i] = _cvtsh_ss(halves[i]);
      return;
    }
    case KvDtype::kF8: {
      const auto* codes = reinterpret_cast<const Float8*>(from);
      for (int64_t i = 0; i < n; ++i) to[i] = _cvtsh_ss(HalfOfFloat8(codes[i])) * scale(i);
      return;
    }
  }
}

}  // namespace

const InfiniKernels& InfiniKernelsOf(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return kInfiniScalar;
    case Isa::kAvx2:
      return kInfiniAvx2;
    case Isa::kAvx512:
      return kInfiniAvx512;
  }
  return kInfiniScalar;
}

void ReadPageKeys(const KvGeometry& geometry, const KvPage& page, float* keys) {
  ReadElements(
      geometry, page.keys, int64_t{geometry.head_dim} * kPageTokens,
      [&](int64_t i) { return page.scales[i % kPageTokens]; }, keys);
}

void ReadPageValues(const KvGeometry& geometry, const KvPage& page, float* values) {
  ReadElements(
      geometry, page.values, int64_t{geometry.head_dim} * kPageTokens,
      [&](int64_t i) { return page.scales[kPageTokens + i / geometry.head_dim]; }, values);
}

void ReadMemory(Isa isa, const KvState& state, std::span<const float> query, std::span<float> out) {
  const InfiniKernels& kernels = InfiniKernelsOf(isa);
  const auto n = static_cast<int64_t>(query.size());
  std::vector<float> features(query.size());
  kernels.features(query.data(), n, features.data());
  kernels.read(features.data(), 1, state.memory, state.normalizer, n, out.data());
}

void UpdateMemory(Isa isa, AttentionForm::Update update, const KvGeometry& geometry,
                  const KvState* before, std::span<const KvPage> pages, const KvState& after,
                  std::vector<float>& scratch) {
  const InfiniKernels& kernels = InfiniKernelsOf(isa);
  const int64_t n = geometry.head_dim;
  const int64_t page_floats = n * kPageTokens;
  scratch.resize(static_cast<size_t>(2 * page_floats + n));
  float* const features = scratch.data();
  float* const values = features + page_floats;
  float* const known = values + page_floats;
  if (before == nullptr) {
    std::fill_n(after.memory, n * n, 0.0F);
    std::fill_n(after.normalizer, n, 0.0F);
  } else {
    std::copy_n(before->memory, n * n, after.memory);
    std::copy_n(before->normalizer, n, after.normalizer);
  }
  for (const KvPage& page : pages) {
    ReadPageKeys(geometry, page, features);
    ReadPageValues(geometry, page, values);
    kernels.features(features, page_floats, features);
    if (update == AttentionForm::Update::kDelta && before != nullptr) {
      for (int64_t t = 0; t < kPageTokens; ++t) {
        kernels.read(features + t, kPageTokens, before->memory, before->normalizer, n, known);
        kernels.subtract(values + t * n, known, n, values + t * n);
      }
    }
    kernels.add_page(features, values, n, after.memory);
    kernels.add_features(features, n, after.normalizer);
  }
}

void MixMemory(Isa isa, float gate, std::span<const float> remembered, std::span<float> attended) {
  InfiniKernelsOf(isa).mix(gate, remembered.data(), static_cast<int64_t>(remembered.size()),
                           attended.data());
}

}  // namespace tandem::core
