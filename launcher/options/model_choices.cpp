#include "launcher/options/model_choices.h"

namespace tandem::launcher {

absl::StatusOr<ModelChoices> ModelChoices::From(const ModelOptions& options) {
  ModelChoices choices;
  TANDEM_ASSIGN_OR_RETURN(choices.device, core::ParseDevice(options.device));
  if (options.exact && options.no_exact) {
    return InvalidArgument("--no-exact: --exact is there too; give one of them");
  }
  choices.exact = !options.no_exact;
  TANDEM_RETURN_IF_ERROR(core::CheckExact(choices.device, choices.exact));
  const auto isa = core::ParseIsa(options.isa);
  if (!isa.ok()) {
    return absl::Status(isa.status().code(),
                        fmt::format("--isa {}: {}", options.isa, Message(isa.status())));
  }
  choices.isa = *isa;
  if (options.activations == "f32") {
    choices.activations = core::ActivationMode::kF32;
  } else if (options.activations != "q8") {
    return InvalidArgument("--activations {}: expected q8 or f32", options.activations);
  }
  const bool slow = choices.activations == core::ActivationMode::kF32;
  if (options.kv_dtype == "f32" || (options.kv_dtype.empty() && slow)) {
    choices.kv_dtype = core::KvDtype::kF32;
  } else if (options.kv_dtype != "f16" && !options.kv_dtype.empty()) {
    return InvalidArgument("--kv-dtype {}: expected f16 or f32", options.kv_dtype);
  }
  if (options.pin == "none") {
    choices.pinning = parallel::Pinning::kNone;
  } else if (options.pin == "cores") {
    choices.pinning = parallel::Pinning::kCores;
  } else if (options.pin != "auto") {
    return InvalidArgument("--pin {}: expected auto, none or cores", options.pin);
  }
  return choices;
}

}  // namespace tandem::launcher
