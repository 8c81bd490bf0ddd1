#include "core/formats/rope_gguf.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <utility>

#include "core/base/double_math.h"

namespace tandem::core {
namespace {

constexpr double kDefaultBase = 10000.0;
constexpr double kMaxBase = 1e15;
constexpr double kMaxScalingFactor = 1e6;
constexpr double kMaxFrequencyFactor = 1e6;

/// What YaRN needs besides the factor.
struct Yarn {
  double extrapolation = 1.0;
  double attention_factor = 1.0;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  double original_context = 0.0;
};

/// A float key that must lie in [low, high]; `fallback` where it is missing.
absl::StatusOr<double> BoundedFloat(const GgufFile& file, const std::string& key, float fallback,
                                    double low, double high) {
  TANDEM_ASSIGN_OR_RETURN(const float value, file.FloatOr(key, fallback));
  if (!(value >= low && value <= high)) {
    return InvalidArgument("{}: key '{}' is {}, expected a number from {} to {}", file.path(), key,
                           value, low, high);
  }
  return value;
}

/// The scaling factor: 1 where there is none. Old files have rope.scale_linear; 0 means absent.
absl::StatusOr<double> ReadFactor(const GgufFile& file, const std::string& prefix) {
  TANDEM_ASSIGN_OR_RETURN(const float old, file.FloatOr(prefix + "scale_linear", 0.0F));
  TANDEM_ASSIGN_OR_RETURN(const double factor, BoundedFloat(file, prefix + "scaling.factor", old,
                                                            0.0, kMaxScalingFactor));
  return factor == 0.0 ? 1.0 : factor;
}

absl::StatusOr<Yarn> ReadYarn(const GgufFile& file, const std::string& prefix, int context) {
  constexpr double kMaxBeta = 1e6;
  Yarn yarn;
  TANDEM_ASSIGN_OR_RETURN(yarn.extrapolation,
                          BoundedFloat(file, prefix + "scaling.yarn_ext_factor", 1.0F, 0.0, 1.0));
  TANDEM_ASSIGN_OR_RETURN(yarn.attention_factor,
                          BoundedFloat(file, prefix + "scaling.attn_factor", 1.0F, 1e-3, 1e3));
  TANDEM_ASSIGN_OR_RETURN(
      yarn.beta_fast, BoundedFloat(file, prefix + "scaling.yarn_beta_fast", 32.0F, 1e-3, kMaxBeta));
  TANDEM_ASSIGN_OR_RETURN(
      yarn.beta_slow, BoundedFloat(file, prefix + "scaling.yarn_beta_slow", 1.0F, 1e-3, kMaxBeta));
  TANDEM_ASSIGN_OR_RETURN(
      const uint32_t original,
      file.U32Or(prefix + "scaling.original_context_length", static_cast<uint32_t>(context)));
  if (original == 0) {
    return InvalidArgument("{}: key '{}scaling.original_context_length' is 0, expected at least 1",
                           file.path(), prefix);
  }
  yarn.original_context = original;
  return yarn;
}

/// The pair whose wavelength turns `rotations` times in the original context.
double CorrectionPair(int rotary_dims, double base, double original_context, double rotations) {
  return rotary_dims * Log(original_context / (rotations * 2.0 * std::numbers::pi)) /
         (2.0 * Log(base));
}

/// Fast pairs keep their frequency (extrapolation), slow ones are divided by the factor
/// (interpolation), with a ramp between.
void ApplyYarn(const Yarn& yarn, double base, double factor, Rope& rope) {
  const int pairs = static_cast<int>(rope.inverse_frequencies.size());
  const int rotary_dims = 2 * pairs;
  const double low = std::max(
      0.0, std::floor(CorrectionPair(rotary_dims, base, yarn.original_context, yarn.beta_fast)));
  const double high =
      std::min(rotary_dims - 1.0,
               std::ceil(CorrectionPair(rotary_dims, base, yarn.original_context, yarn.beta_slow)));
  for (int i = 0; i < pairs; ++i) {
    const double ramp = std::clamp((i - low) / std::max(0.001, high - low), 0.0, 1.0);
    const double keep = (1.0 - ramp) * yarn.extrapolation;
    double& frequency = rope.inverse_frequencies[static_cast<size_t>(i)];
    frequency = frequency / factor * (1.0 - keep) + frequency * keep;
  }
  rope.magnitude = yarn.attention_factor;
  if (factor > 1.0 && yarn.extrapolation > 0.0) rope.magnitude *= 1.0 + 0.1 * Log(factor);
}

/// Divides every frequency by the tensor's factor (Llama 3's scaling, made by the converter).
absl::Status ApplyFrequencyFactors(const GgufFile& file, const GgufTensor& tensor, Rope& rope) {
  const auto pairs = static_cast<int64_t>(rope.inverse_frequencies.size());
  if (tensor.dtype != DType::kF32 || tensor.elements() != pairs) {
    return InvalidArgument("{}: tensor '{}': expected F32 [{}], found {} of {} elements",
                           file.path(), tensor.name, pairs, DTypeName(tensor.dtype),
                           tensor.elements());
  }
  std::vector<float> factors(static_cast<size_t>(pairs));
  Dequantize(tensor.dtype, tensor.data.data(), pairs, factors.data());
  for (size_t i = 0; i < factors.size(); ++i) {
    if (!(factors[i] >= 1.0 / kMaxFrequencyFactor && factors[i] <= kMaxFrequencyFactor)) {
      return InvalidArgument("{}: tensor '{}' has {} at index {}, expected a number from {} to {}",
                             file.path(), tensor.name, factors[i], i, 1.0 / kMaxFrequencyFactor,
                             kMaxFrequencyFactor);
    }
    rope.inverse_frequencies[i] /= factors[i];
  }
  return absl::OkStatus();
}

}  // namespace

Rope PlainRope(RopeLayout layout, int rotary_dims, double base) {
  Rope rope;
  rope.layout = layout;
  rope.inverse_frequencies.resize(static_cast<size_t>(rotary_dims / 2));
  for (int i = 0; i < rotary_dims / 2; ++i) {
    rope.inverse_frequencies[static_cast<size_t>(i)] = Pow(base, -2.0 * i / rotary_dims);
  }
  return rope;
}

absl::StatusOr<Rope> ReadRope(const GgufFile& file, std::string_view arch, RopeLayout layout,
                              int head_dim, int context) {
  const std::string prefix = fmt::format("{}.rope.", arch);
  TANDEM_ASSIGN_OR_RETURN(const uint32_t rotary_dims,
                          file.U32Or(prefix + "dimension_count", static_cast<uint32_t>(head_dim)));
  if (rotary_dims < 2 || rotary_dims > static_cast<uint32_t>(head_dim) || rotary_dims % 2 != 0) {
    return InvalidArgument(
        "{}: key '{}dimension_count' is {}, expected an even number from 2 to the head dimension "
        "{}",
        file.path(), prefix, rotary_dims, head_dim);
  }
  TANDEM_ASSIGN_OR_RETURN(const double base, BoundedFloat(file, prefix + "freq_base",
                                                          float{kDefaultBase}, 1.001, kMaxBase));
  TANDEM_ASSIGN_OR_RETURN(const double factor, ReadFactor(file, prefix));
  TANDEM_ASSIGN_OR_RETURN(const std::string_view type,
                          file.StringOr(prefix + "scaling.type", "linear"));

  Rope rope = PlainRope(layout, static_cast<int>(rotary_dims), base);
  if (const GgufTensor* factors = file.FindTensor("rope_freqs.weight"); factors != nullptr) {
    TANDEM_RETURN_IF_ERROR(ApplyFrequencyFactors(file, *factors, rope));
  }
  if (type != "yarn") {
    // These two belong to YaRN, and would scale the rotation all the same.
    for (const auto& [name, neutral] :
         {std::pair{"scaling.attn_factor", 1.0F}, {"scaling.yarn_ext_factor", 0.0F}}) {
      const std::string key = prefix + name;
      TANDEM_ASSIGN_OR_RETURN(const float value, file.FloatOr(key, neutral));
      if (value != neutral) {
        return Unimplemented("{}: key '{}' is {}: supported with '{}scaling.type' yarn only",
                             file.path(), key, value, prefix);
      }
    }
  }
  if (type == "linear") {
    for (double& frequency : rope.inverse_frequencies) frequency /= factor;
  } else if (type == "yarn") {
    TANDEM_ASSIGN_OR_RETURN(const Yarn yarn, ReadYarn(file, prefix, context));
    ApplyYarn(yarn, base, factor, rope);
  } else if (type != "none") {
    return Unimplemented("{}: key '{}scaling.type' is \"{}\", expected none, linear or yarn",
                         file.path(), prefix, PrintableText(type));
  }
  return rope;
}

}  // namespace tandem::core
