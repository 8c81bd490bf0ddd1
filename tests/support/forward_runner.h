#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/cpu/cpu_operations.h"
#include "core/formats/model_file.h"
#include "core/model/device_link.h"

namespace tandem::testing {

/// How a prompt is run through a model.
struct ForwardOptions {
  int ranks = 1;
  int threads = 1;
  core::Isa isa = core::Isa::kScalar;
  core::ActivationMode activations = core::ActivationMode::kQ8;
  core::KvDtype kv_dtype = core::KvDtype::kF16;
  std::vector<int> chunks = {};      // tokens of each step; empty: all in one
  std::vector<double> weights = {};  // relative speeds for the planner
  /// What computes, for the shard of a rank; without it a CPU, as the options above say.
  std::function<absl::StatusOr<std::unique_ptr<core::Operations>>(const core::ModelConfig& config,
                                                                  const core::Shard& shard)>
      device = {};
  /// What joins the devices of all ranks; without it they meet through the host.
  std::function<absl::StatusOr<std::unique_ptr<core::DeviceLinker>>()> linker = {};
  std::function<absl::StatusOr<std::unique_ptr<core::DeviceLinker>>()> peer_linker = {};
  bool floats = false;  // what they reduce: of fast mode
  /// Another sequence that shares every step, from its own position 0.
  std::vector<int32_t> neighbour = {};
};

struct ForwardResult {
  std::vector<float> logits;          // [tokens, vocab]
  std::vector<uint8_t> token_failed;  // [tokens]
};

/// Logits of every token, computed by ranks that are threads of this process, pages scattered over
/// a pool filled with NaN, in the memory of the device.
absl::StatusOr<ForwardResult> RunForward(const core::ModelFile& file,
                                         std::span<const int32_t> tokens,
                                         const ForwardOptions& options);

/// A description for test messages: "3 ranks, 2 threads, avx2, 4 chunks".
std::string Describe(const ForwardOptions& options);

}  // namespace tandem::testing
