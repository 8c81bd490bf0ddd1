#include "launcher/options/model_choices.h"

#include <algorithm>
#include <iterator>

#include "core/model/attention_text.h"

namespace tandem::launcher {

absl::StatusOr<ModelChoices> ModelChoices::From(const ModelOptions& options) {
  ModelChoices choices;
  TANDEM_ASSIGN_OR_RETURN(choices.device, core::ParseDevice(options.device));
  if (options.exact && options.no_exact) {
    return InvalidArgument("--no-exact: --exact is there too; give one of them");
  }
  choices.exact = !options.no_exact;
  TANDEM_RETURN_IF_ERROR(core::CheckExact(choices.device, choices.exact));
  if (options.gpu_link == "nccl" || options.gpu_link == "peer") {
    if (choices.device != core::DeviceKind::kCuda) {
      return InvalidArgument("--gpu-link {}: ranks compute on CPUs; add --device cuda",
                             options.gpu_link);
    }
    choices.gpu_link = options.gpu_link == "nccl" ? GpuLink::kNccl : GpuLink::kPeer;
  } else if (options.gpu_link == "host") {
    choices.gpu_link = GpuLink::kHost;
  } else if (options.gpu_link != "auto") {
    return InvalidArgument("--gpu-link {}: expected auto, nccl, peer or host", options.gpu_link);
  }
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
  if (options.kv_dtype.empty()) {
    choices.kv_dtype = slow ? core::KvDtype::kF32 : core::KvDtype::kF16;
  } else {
    const auto* const named = std::ranges::find(core::kKvDtypes, options.kv_dtype,
                                                [](core::KvDtype d) { return KvDtypeName(d); });
    if (named == std::end(core::kKvDtypes)) {
      return InvalidArgument("--kv-dtype {}: expected f16, f32 or f8", options.kv_dtype);
    }
    choices.kv_dtype = *named;
  }
  const auto attention = core::ParseAttentionForm(options.attention);
  if (!attention.ok()) return InvalidArgument("--attention {}", Message(attention.status()));
  choices.attention = *attention;
  if (options.pin == "none") {
    choices.pinning = parallel::Pinning::kNone;
  } else if (options.pin == "cores") {
    choices.pinning = parallel::Pinning::kCores;
  } else if (options.pin != "auto") {
    return InvalidArgument("--pin {}: expected auto, none or cores", options.pin);
  }
  return choices;
}

absl::StatusOr<std::unique_ptr<core::ModelFile>> OpenModel(const ModelOptions& options,
                                                           const ModelChoices& choices) {
  TANDEM_ASSIGN_OR_RETURN(auto file, core::ModelFile::Open(options.model));
  const absl::Status fits = file->SetAttention(choices.attention);
  if (!fits.ok()) return InvalidArgument("--attention {}", Message(fits));
  file->SetStateInterval(options.state_interval);
  if (options.no_limit) {
    if (!choices.attention.bounded()) {
      return InvalidArgument(
          "--no-limit: a stream without end needs attention that leaves keys behind, and of "
          "--attention {} all are kept: give sparse:window=W[,global=G] without random blocks, "
          "or infini:segment=N",
          core::AttentionText(choices.attention));
    }
    if (file->config().Has("position_embd.weight")) {
      return InvalidArgument(
          "--no-limit: {} has learned positions for {} tokens, and none behind them: leave "
          "--no-limit out",
          options.model, file->config().context);
    }
    file->LiftContext();
  }
  return file;
}

}  // namespace tandem::launcher
