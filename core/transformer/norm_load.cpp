#include "core/transformer/norm_load.h"

#include <cmath>
#include <string>
#include <vector>

namespace tandem::core {
namespace {

/// Makes scale and shift of weight and bias.
absl::Status FoldStatistics(const ModelFile& file, std::string_view name, const NormSpec& spec,
                            std::vector<float>& weight, std::vector<float>& bias) {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<float> mean,
                          file.Vector(fmt::format("{}.running_mean", name), spec.size));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<float> variance,
                          file.Vector(fmt::format("{}.running_var", name), spec.size));
  bias.resize(weight.size(), 0.0F);
  for (size_t i = 0; i < weight.size(); ++i) {
    const double sum = double{variance[i]} + double{spec.epsilon};
    if (!(sum > 0.0 && std::isfinite(sum))) {
      return InvalidArgument(
          "{}: tensor '{}.running_var' has {} at index {}, expected a number that is above 0 with "
          "the epsilon {}",
          file.path(), name, variance[i], i, spec.epsilon);
    }
    const double scale = double{weight[i]} / std::sqrt(sum);
    if (!std::isfinite(mean[i])) {
      return InvalidArgument("{}: tensor '{}.running_mean' has {} at index {}, expected a number",
                             file.path(), name, mean[i], i);
    }
    bias[i] = static_cast<float>(double{bias[i]} - double{mean[i]} * scale);
    weight[i] = static_cast<float>(scale);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Norm> LoadNorm(const ModelFile& file, std::string_view name, const NormSpec& spec,
                              DeviceMemory& memory) {
  std::vector<float> weight(static_cast<size_t>(spec.size), 1.0F);
  std::vector<float> bias;
  if (const std::string part = fmt::format("{}.weight", name); file.Has(part)) {
    TANDEM_ASSIGN_OR_RETURN(weight, file.Vector(part, spec.size));
  }
  if (const std::string part = fmt::format("{}.bias", name); file.Has(part)) {
    TANDEM_ASSIGN_OR_RETURN(bias, file.Vector(part, spec.size));
  }
  if (spec.kind == NormKind::kBatch) {
    TANDEM_RETURN_IF_ERROR(FoldStatistics(file, name, spec, weight, bias));
  }
  return Norm{.kind = spec.kind,
              .epsilon = spec.epsilon,
              .weight = WeightVector(memory, weight),
              .bias = bias.empty() ? WeightVector() : WeightVector(memory, bias)};
}

}  // namespace tandem::core
