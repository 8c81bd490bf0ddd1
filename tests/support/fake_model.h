#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "core/model/host_memory.h"
#include "core/model/model.h"

namespace tandem::testing {

/// Two layer groups (full attention, and a window), 6 query heads on 3 KV heads.
core::ModelConfig FakeConfig();

/// A model without weights for tests of everything around the forward pass.
///
/// Every layer writes a number made of (token, position, layer, KV head) into the pages and its
/// heads read the numbers of all positions they see back, so a wrong block table, a lost page or a
/// wrong position changes the logits. Query heads and vocabulary rows are sharded; the heads' parts
/// meet in an all-reduce a layer. Exact integers all through: any rank count gives the same logits.
class FakeModel final : public core::Model {
 public:
  FakeModel(core::ModelConfig config, core::Shard shard,
            std::unique_ptr<core::DeviceMemory> memory = std::make_unique<core::HostMemory>())
      : config_(std::move(config)), shard_(shard), memory_(std::move(memory)) {}

  const core::ModelConfig& config() const override { return config_; }
  const core::Shard& shard() const override { return shard_; }
  int64_t weight_bytes() const override { return 1000; }
  core::DeviceMemory& memory() override { return *memory_; }
  absl::Status Forward(const core::Batch& batch, const core::KvView& cache,
                       core::Collective& collective) override;
  absl::Status Sample(std::span<const core::SampleRow> rows, core::Collective& collective,
                      const core::StepPhase& phase, std::span<core::SampledToken> out) override;
  absl::Status Score(std::span<const core::ScoreRow> rows, core::Collective& collective,
                     const core::StepPhase& phase, std::span<core::TokenScore> out) override;
  absl::Status ReadLogits(core::Range rows, float* out, int64_t stride) override;
  absl::StatusOr<std::span<const uint8_t>> TokenFailures() override { return token_failed_; }
  bool passes_ahead() const override { return most_ahead_ != nullptr; }
  bool CanKeep(std::span<const core::SampleRow> rows,
               const core::Collective& collective) const override;
  absl::Status Keep(std::span<const core::SampleRow> rows, core::Collective& collective,
                    const core::StepPhase& phase) override;
  absl::Status AwaitKept(absl::FunctionRef<bool()> until) override;
  absl::StatusOr<core::KeptResults> TakeKept() override;

  /// Lets passes begin ahead. most: set to how many had been begun and not finished, at most.
  void PassAhead(size_t& most) { most_ahead_ = &most; }

  /// A token whose sums "overflow" wherever it stands, and one after which logits are not finite.
  void FailOnToken(int32_t token) { failing_token_ = token; }
  void BreakLogitsOnToken(int32_t token) { broken_token_ = token; }
  /// Called before each pass with the step's number.
  void OnForward(std::function<absl::Status(uint64_t)> hook) { hook_ = std::move(hook); }

 private:
  core::ModelConfig config_;
  core::Shard shard_;
  std::unique_ptr<core::DeviceMemory> memory_;
  std::vector<float> logits_;          // [rows of the step, vocabulary rows of the shard]
  std::vector<uint8_t> token_failed_;  // [tokens of the step]
  struct Kept {
    std::vector<uint8_t> failed;
    std::vector<int32_t> sampled;
  };
  std::deque<Kept> kept_;
  std::vector<int32_t> sampled_;  // of the pass that was kept last
  Kept taken_;
  int waits_ = 0;
  size_t* most_ahead_ = nullptr;
  int32_t failing_token_ = -1;
  int32_t broken_token_ = -1;
  std::function<absl::Status(uint64_t)> hook_;
};

/// Logits [vocab] after the last of `tokens`, computed without pages or ranks: what FakeModel must
/// give.
std::vector<float> FakeLogits(const core::ModelConfig& config, const std::vector<int32_t>& tokens);

/// The greedy answer of `count` tokens to a prompt, by FakeLogits.
std::vector<int32_t> FakeAnswer(const core::ModelConfig& config, std::vector<int32_t> prompt,
                                int count);

}  // namespace tandem::testing
