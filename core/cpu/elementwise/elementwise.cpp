#include "core/cpu/elementwise/elementwise.h"

#include <algorithm>

#include "core/cpu/elementwise/elementwise_kernels.h"

namespace tandem::core {
namespace {

constexpr ElementwiseKernels kElementwiseScalar = ElementwiseOf<ScalarLanes<kLanes>>::kTable;
constexpr ElementwiseKernels kElementwiseAvx2 = ElementwiseOf<Avx2Lanes>::kTable;

const ElementwiseKernels& Kernels(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return kElementwiseScalar;
    case Isa::kAvx2:
      return kElementwiseAvx2;
    case Isa::kAvx512:
      return kElementwiseAvx512;
  }
  return kElementwiseScalar;
}

int64_t Size(std::span<const float> x) { return static_cast<int64_t>(x.size()); }

}  // namespace

float Exp(float x) { return LanesExp(ScalarLanes<1>::Set(x)).v[0]; }

float Tanh(float x) { return LanesTanh(ScalarLanes<1>::Set(x)).v[0]; }

void Normalize(Isa isa, const NormRow& norm, std::span<const float> x, std::span<float> out) {
  const ElementwiseKernels& kernels = Kernels(isa);
  switch (norm.kind) {
    case NormKind::kRms:
      kernels.rms_norm(x.data(), norm.weight.data(), Size(x), norm.epsilon, out.data());
      break;
    case NormKind::kLayer:
      kernels.layer_norm(x.data(), norm.weight.data(), Size(x), norm.epsilon, out.data());
      break;
    case NormKind::kBatch:
      if (out.data() != x.data()) std::copy(x.begin(), x.end(), out.begin());
      return kernels.scale_and_shift(out.data(), norm.weight.data(), norm.bias.data(), Size(x));
  }
  if (!norm.bias.empty()) AddInPlace(isa, out, norm.bias);
}

void RmsNorm(Isa isa, std::span<const float> x, std::span<const float> weight, float epsilon,
             std::span<float> out) {
  Normalize(isa, {NormKind::kRms, epsilon, weight, {}}, x, out);
}

void GatedActivation(Isa isa, Activation kind, std::span<const float> gate,
                     std::span<const float> up, std::span<float> out) {
  const ElementwiseKernels& kernels = Kernels(isa);
  const auto activate = kind == Activation::kSilu       ? kernels.silu
                        : kind == Activation::kGeluTanh ? kernels.gelu_tanh
                                                        : kernels.gelu;
  activate(gate.data(), up.data(), Size(gate), out.data());
}

void Activate(Isa isa, Activation kind, std::span<float> x) {
  Kernels(isa).activate(kind, x.data(), Size(x));
}

void AddInPlace(Isa isa, std::span<float> x, std::span<const float> y) {
  Kernels(isa).add(x.data(), y.data(), Size(x), x.data());
}

void PartialSumsToFloat(Isa isa, std::span<const int64_t> sums, std::span<const float> bias,
                        std::span<float> out) {
  Kernels(isa).partial_sums(sums.data(), bias.empty() ? nullptr : bias.data(),
                            static_cast<int64_t>(sums.size()), out.data());
}

void Rotate(Isa isa, RopeLayout layout, std::span<const float> cosines,
            std::span<const float> sines, std::span<float> x) {
  const ElementwiseKernels& kernels = Kernels(isa);
  const auto rotate =
      layout == RopeLayout::kAdjacentPairs ? kernels.rotate_pairs : kernels.rotate_halves;
  rotate(cosines.data(), sines.data(), Size(cosines), x.data());
}

}  // namespace tandem::core
