// What CudaOperations do for passes that begin while the GPU computes the one before.

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "core/cuda/cuda_operations.h"
#include "core/cuda/kernels/embed_kernels.h"
#include "core/model/device_status.h"
#include "core/sampling/sampler.h"

namespace tandem::core {

bool CudaOperations::Grows(const Batch& batch) {
  uint64_t entries = 0;
  uint64_t last = 0;
  for (const SequenceSlice& sequence : batch.sequences) {
    for (const auto& table : sequence.block_tables) entries += table.size();
    last = std::max(last, static_cast<uint64_t>(sequence.start_position + sequence.tokens));
  }
  const uint64_t tokens = batch.tokens.size();
  const std::array<uint64_t, 4> of_step = {tokens, batch.logit_tokens.size(),
                                           std::bit_ceil(entries), std::bit_ceil(tokens * last)};
  bool grows = false;
  for (size_t i = 0; i < most_.size(); ++i) {
    grows = grows || of_step[i] > most_[i];
    most_[i] = std::max(most_[i], of_step[i]);
  }
  return grows;
}

void CudaOperations::TakeKeptRows(const MatrixSource& table, std::span<const int32_t> tokens,
                                  EmbeddingUpload& to) {
  std::vector<int32_t> rows;
  for (const int32_t token : tokens) rows.push_back(KeptRow(token));
  const int32_t* const sent = kept_rows_.Send(rows);
  if (replays()) return;
  LaunchTakeRows(memory_.stream(), table_.get(), RowBytes(table.dtype, table.columns),
                 sampled_.data(), sent, static_cast<int64_t>(tokens.size()), to.on_device.data());
}

void CudaOperations::PrepareEmbedding(const EmbeddingTables& tables) {
  UseGpu(memory_.gpu());
  const MatrixSource& table = tables.tokens;
  const int64_t bytes = table.rows * RowBytes(table.dtype, table.columns);
  table_ = TryAllocatePinned(static_cast<size_t>(bytes));
  if (table_ == nullptr) return;
  constexpr int64_t kPart = int64_t{4} << 20;
  pool_.ParallelFor((bytes + kPart - 1) / kPart, [&](int64_t part, int) {
    const int64_t first = part * kPart;
    std::memcpy(table_.get() + first, table.data + first,
                static_cast<size_t>(std::min(kPart, bytes - first)));
  });
}

bool CudaOperations::CanKeep(std::span<const SampleRow> rows, const Collective& collective) const {
  if (collective.size() > 1 && collective.device_link() == nullptr) return false;
  if (rows.empty()) return true;
  return table_ != nullptr && std::all_of(rows.begin(), rows.end(), [](const SampleRow& row) {
           return row.params->temperature == 0.0F && row.candidates == 1 && !row.scored &&
                  !ChangesLogits(*row.params);
         });
}

absl::Status CudaOperations::Keep(Tensor& logits, Range vocab_rows, std::span<const SampleRow> rows,
                                  Collective& collective, const StepPhase& phase) {
  sampled_.SetRows(static_cast<int64_t>(rows.size()));
  if (!rows.empty()) {
    logits_.Set(logits.data(), vocab_rows);
    TANDEM_RETURN_IF_ERROR(logits_.ChooseBest(rows, collective, phase, sampled_.data()));
  }
  kept_.Keep(token_failed_.data(), static_cast<size_t>(token_failed_.rows()), sampled_.data(),
             rows.size(), memory_.stream());
  return absl::OkStatus();
}

absl::Status CudaOperations::AwaitKept(absl::FunctionRef<bool()> until) {
  UseGpu(memory_.gpu());
  return WithDeviceFailures(
      [&] { reductions_.AwaitOldest([this] { return kept_.HasCome(); }, until); });
}

KeptResults CudaOperations::TakeKept() {
  UseGpu(memory_.gpu());
  const KeptResults results = kept_.Take();
  reductions_.EndOldest();
  return results;
}

}  // namespace tandem::core
