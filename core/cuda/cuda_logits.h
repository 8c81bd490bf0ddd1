#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "core/cuda/cuda_memory.h"
#include "core/cuda/cuda_reductions.h"
#include "core/cuda/kernels/sampling_kernels.h"
#include "core/model/tensor.h"
#include "core/sampling/shard_logits.h"

namespace tandem::core {

/// Bytes that the host gives to kernels and takes from them, typed: room that is kept from step to
/// step.
template <typename T>
struct SentRows {
  explicit SentRows(CudaMemory& memory) : upload(memory), rows(memory, 1) {}
  /// Where they will be on the device.
  const T* Send(const std::vector<T>& values) {
    const size_t bytes = values.size() * sizeof(T);
    rows.SetRows(static_cast<int64_t>(values.size()));
    if (bytes == 0) return rows.data();
    std::memcpy(upload.Begin(bytes), values.data(), bytes);
    upload.Send(bytes, reinterpret_cast<std::byte*>(rows.data()));
    return rows.data();
  }
  Upload upload;
  Rows<T> rows;
};

/// Logits in a GPU's memory. Sampling is done there; what comes to the host is what the calls of
/// ShardLogits give. Thread safety: one thread calls.
class CudaLogits final : public ShardLogits {
 public:
  /// `memory` and `reductions` must outlive the logits.
  CudaLogits(CudaMemory& memory, CudaReductions& reductions)
      : memory_(memory),
        reductions_(reductions),
        changes_(memory),
        kept_(memory),
        selected_(memory),
        summed_(memory),
        parts_(memory),
        kept_values_(memory, 1),
        keys_(memory, 1),
        candidates_(memory, 1),
        gathered_(memory, 1),
        sums_(memory, 1),
        read_(memory, 1) {}

  /// data: [rows of the step, vocab_rows.count]
  void Set(float* data, Range vocab_rows) {
    data_ = data;
    vocab_rows_ = vocab_rows;
  }

  Range vocab_rows() const override { return vocab_rows_; }
  bool in_host_memory() const override { return false; }
  void ApplyPenalties(std::span<const SampleRow> rows) override;
  void Restore() override;
  void SelectCandidates(std::span<const BestOfRow> wanted) override;
  /// Where GPUs are joined, they gather, and the host takes what all gave at once.
  absl::Status GatherCandidates(std::span<const CountOfRow> wanted, Collective& collective,
                                const StepPhase& phase, std::span<Candidate> all) override;
  /// tokens[i] = the best token of rows[i] among all ranks, as LaunchChooseBest has it; put into
  /// the stream. tokens: [rows.size()] of the device. `collective` has a link, or one rank.
  absl::Status ChooseBest(std::span<const SampleRow> rows, Collective& collective,
                          const StepPhase& phase, int32_t* tokens);
  void SumWholeBlocks(std::span<const SumsOfRow> wanted, SumOrder order) override;
  void Read(std::span<const PartOfRow> wanted) override;

 private:
  /// Keeps the logits at these places, which may be there several times, for Restore.
  void Keep(std::vector<int64_t> places);
  /// Makes gathered_ of the candidates_ of all ranks, `count` in all.
  absl::Status GatherOnDevices(DeviceLink& link, size_t count, Collective& collective,
                               const StepPhase& phase);
  /// Makes candidates_ of these rows, one after the other. False: there are none.
  bool SelectOnDevice(std::span<const CountOfRow> wanted);
  LogitRows logit_rows() const { return {data_, vocab_rows_.count, vocab_rows_.begin}; }

  CudaMemory& memory_;
  CudaReductions& reductions_;
  float* data_ = nullptr;
  Range vocab_rows_;
  SentRows<LogitChange> changes_;
  SentRows<int64_t> kept_;
  SentRows<SelectedRow> selected_;
  SentRows<SummedRow> summed_;
  SentRows<LogitPart> parts_;
  Rows<float> kept_values_;  // as many as are kept
  Rows<uint64_t> keys_;
  Rows<Candidate> candidates_;
  Rows<Candidate> gathered_;  // of all ranks
  Rows<double> sums_;
  Rows<float> read_;
};

}  // namespace tandem::core
