#include "core/cpu/elementwise/elementwise.h"

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

void RmsNorm(Isa isa, std::span<const float> x, std::span<const float> weight, float epsilon,
             std::span<float> out) {
  Kernels(isa).rms_norm(x.data(), weight.data(), Size(x), epsilon, out.data());
}

void GatedActivation(Isa isa, Gate kind, std::span<const float> gate, std::span<const float> up,
                     std::span<float> out) {
  const ElementwiseKernels& kernels = Kernels(isa);
  const auto activate = kind == Gate::kSilu ? kernels.silu : kernels.gelu_tanh;
  activate(gate.data(), up.data(), Size(gate), out.data());
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
