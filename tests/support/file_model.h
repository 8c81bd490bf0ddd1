#pragma once

#include <memory>
#include <utility>

#include "core/formats/model_file.h"
#include "core/model/model.h"
#include "core/model/operations.h"
#include "core/transformer/transformer.h"

namespace tandem::testing {

/// A shard of a model file, with the device that it stands on.
class FileModel final : public core::Model {
 public:
  FileModel(const core::ModelFile& file, const core::Shard& shard,
            std::unique_ptr<core::Operations> operations)
      : operations_(std::move(operations)),
        model_(*core::Transformer::Load(file, shard, *operations_, nullptr)) {}

  const core::ModelConfig& config() const override { return model_->config(); }
  const core::Shard& shard() const override { return model_->shard(); }
  int64_t weight_bytes() const override { return model_->weight_bytes(); }
  core::DeviceMemory& memory() override { return model_->memory(); }
  absl::Status Forward(const core::Batch& batch, const core::KvView& cache,
                       core::Collective& collective) override {
    return model_->Forward(batch, cache, collective);
  }
  absl::Status Sample(std::span<const core::SampleRow> rows, core::Collective& collective,
                      const core::StepPhase& phase, std::span<core::SampledToken> out) override {
    return model_->Sample(rows, collective, phase, out);
  }
  absl::Status Score(std::span<const core::ScoreRow> rows, core::Collective& collective,
                     const core::StepPhase& phase, std::span<core::TokenScore> out) override {
    return model_->Score(rows, collective, phase, out);
  }
  absl::Status ReadLogits(core::Range rows, float* out, int64_t stride) override {
    return model_->ReadLogits(rows, out, stride);
  }
  absl::StatusOr<std::span<const uint8_t>> TokenFailures() override {
    return model_->TokenFailures();
  }
  bool passes_ahead() const override { return model_->passes_ahead(); }
  bool CanKeep(std::span<const core::SampleRow> rows,
               const core::Collective& collective) const override {
    return model_->CanKeep(rows, collective);
  }
  absl::Status Keep(std::span<const core::SampleRow> rows, core::Collective& collective,
                    const core::StepPhase& phase) override {
    return model_->Keep(rows, collective, phase);
  }
  absl::Status AwaitKept(absl::FunctionRef<bool()> until) override {
    return model_->AwaitKept(until);
  }
  absl::StatusOr<core::KeptResults> TakeKept() override { return model_->TakeKept(); }

  core::Operations& operations() { return *operations_; }

 private:
  std::unique_ptr<core::Operations> operations_;
  std::unique_ptr<core::Transformer> model_;
};

}  // namespace tandem::testing
