#pragma once

#include <memory>

#include "core/base/isa.h"
#include "core/base/status.h"
#include "core/cpu/linear/packed_matrix.h"
#include "core/device/device.h"
#include "core/formats/model_file.h"
#include "core/model/attention_form.h"
#include "core/model/kv_view.h"
#include "launcher/options/options.h"
#include "parallel/placement/cpu_placement.h"

namespace tandem::launcher {

/// How GPUs of several ranks meet.
enum class GpuLink { kAuto, kNccl, kPeer, kHost };

/// The named choices of ModelOptions, understood.
struct ModelChoices {
  core::DeviceKind device = core::DeviceKind::kCpu;
  bool exact = true;
  GpuLink gpu_link = GpuLink::kAuto;
  core::Isa isa = core::Isa::kScalar;
  core::ActivationMode activations = core::ActivationMode::kQ8;
  core::KvDtype kv_dtype = core::KvDtype::kF16;
  core::AttentionForm attention;
  parallel::Pinning pinning = parallel::Pinning::kNodes;

  /// kInvalidArgument, naming the flag and what it takes; kUnimplemented for a mode that the device
  /// does not have.
  static absl::StatusOr<ModelChoices> From(const ModelOptions& options);
};

/// The model file of the options, which attends as `choices` say. Errors: those of ModelFile,
/// naming the flag.
absl::StatusOr<std::unique_ptr<core::ModelFile>> OpenModel(const ModelOptions& options,
                                                           const ModelChoices& choices);

}  // namespace tandem::launcher
