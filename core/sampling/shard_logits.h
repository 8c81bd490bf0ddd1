#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "core/base/status.h"
#include "core/model/collective.h"
#include "core/model/sampling.h"
#include "core/model/shard.h"
#include "core/sampling/logit_math.h"

namespace tandem::core {

/// Calls body(task) for every task in [0, tasks), on one thread or several.
using ParallelTasks =
    absl::FunctionRef<void(int64_t tasks, absl::FunctionRef<void(int64_t task)> body)>;

/// A shard's logits of a step, wherever they are, and all that sampling does with them: [rows of
/// the step, vocab_rows().count]. Results are in host memory when a call returns. Thread safety:
/// one thread calls.
class ShardLogits {
 public:
  virtual ~ShardLogits() = default;
  virtual Range vocab_rows() const = 0;
  /// Whether it costs little to read them all.
  virtual bool in_host_memory() const = 0;

  /// ApplyPenalties (core/sampling/sampler.h) on the logits of each row.
  virtual void ApplyPenalties(std::span<const SampleRow> rows) = 0;
  /// Undoes that on rows that are scored.
  virtual void Restore() = 0;

  /// SelectCandidates of a row.
  struct BestOfRow {
    int64_t row = 0;
    std::span<Candidate> out;
  };
  virtual void SelectCandidates(std::span<const BestOfRow> wanted) = 0;

  /// The same for as many candidates of each row as are said, of all ranks, which want the same:
  /// all [ranks, candidates of all rows]. Called by all of them together. Errors: those of
  /// `collective`.
  struct CountOfRow {
    int64_t row = 0;
    int32_t count = 0;
  };
  virtual absl::Status GatherCandidates(std::span<const CountOfRow> wanted, Collective& collective,
                                        const StepPhase& phase, std::span<Candidate> all);

  /// The sums of weights of a row's blocks of kSumRows vocabulary rows: those that the shard has
  /// whole, in order.
  struct SumsOfRow {
    int64_t row = 0;
    Softmax softmax;
    std::span<double> out;  // [WholeBlocks(vocab_rows()).count]
  };
  virtual void SumWholeBlocks(std::span<const SumsOfRow> wanted, SumOrder order) = 0;

  /// Some of a row's logits as they are.
  struct PartOfRow {
    int64_t row = 0;
    int64_t first_token = 0;  // in vocab_rows(), and so are the others
    std::span<float> out;
  };
  virtual void Read(std::span<const PartOfRow> wanted) = 0;
};

/// Numbers of the blocks of kSumRows vocabulary rows that lie in `vocab_rows` whole.
Range WholeBlocks(Range vocab_rows);

/// Logits in host memory.
class HostLogits final : public ShardLogits {
 public:
  /// data: [rows of the step, vocab_rows.count]
  HostLogits(float* data, Range vocab_rows, ParallelTasks parallel_for)
      : data_(data), vocab_rows_(vocab_rows), parallel_for_(parallel_for) {}

  Range vocab_rows() const override { return vocab_rows_; }
  bool in_host_memory() const override { return true; }
  void ApplyPenalties(std::span<const SampleRow> rows) override;
  void Restore() override;
  void SelectCandidates(std::span<const BestOfRow> wanted) override;
  void SumWholeBlocks(std::span<const SumsOfRow> wanted, SumOrder order) override;
  void Read(std::span<const PartOfRow> wanted) override;

 private:
  std::span<float> row(int64_t i) const {
    return {data_ + i * vocab_rows_.count, static_cast<size_t>(vocab_rows_.count)};
  }

  struct KeptRow {
    int64_t row = 0;
    std::vector<float> logits;
  };

  float* data_;
  Range vocab_rows_;
  std::vector<KeptRow> kept_;  // of ApplyPenalties
  ParallelTasks parallel_for_;
};

}  // namespace tandem::core
