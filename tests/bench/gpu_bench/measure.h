#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/model/kv_view.h"
#include "tests/bench/gpu_bench/random_model.h"

namespace tandem::bench {

/// How long to measure.
struct Effort {
  double seconds = 1;            // of each measurement, at least
  int least = 3;                 // repetitions, at least
  int64_t copy_bytes = 1 << 30;  // of the copy that bandwidth is measured with, at most
};

/// Bytes a second that the GPU reads and writes when it copies within its memory.
absl::StatusOr<double> CopyBandwidth(core::CudaMemory& memory, const Effort& effort);

/// One measured point.
struct Point {
  double seconds = 0;     // of a step
  double bytes = 0;       // that a step must read, at least: weights and cache
  double operations = 0;  // multiplications and additions of its products
  std::string skipped;    // why it was not measured; empty if it was
};

/// A step in which `batch` sequences that hold `context` tokens each get one more.
absl::StatusOr<Point> Decode(RandomModel& model, core::KvDtype dtype, int batch, int context,
                             const Effort& effort);
/// A step that reads `tokens` of a prompt behind `context` tokens of it.
absl::StatusOr<Point> Prefill(RandomModel& model, core::KvDtype dtype, int tokens, int context,
                              const Effort& effort);
/// The attention of one layer alone, as in Decode.
absl::StatusOr<Point> Attention(RandomModel& model, core::KvDtype dtype, int batch, int context,
                                const Effort& effort);

/// How long a GPU does nothing between two steps of which the host awaits the first.
struct Gap {
  double step = 0;      // seconds from one step to the next
  double busy = 0;      // of them, that its kernels take where the host waits for none
  std::string skipped;  // why it was not measured; empty if it was
};
/// Of steps as Decode has them.
absl::StatusOr<Gap> StepGap(RandomModel& model, core::KvDtype dtype, int batch, int context,
                            const Effort& effort);

/// What a prompt's KV costs, brought back from records or computed anew.
struct Restoring {
  double check = 0;      // seconds in which one thread checks the records whole
  double load = 0;       // seconds in which they come into the GPU's pages
  double recompute = 0;  // seconds in which the prompt is read, 512 tokens a step
  double bytes = 0;      // of the records
  std::string skipped;
};
/// Of `tokens` tokens, a multiple of 64, whose records lie in the host's memory.
absl::StatusOr<Restoring> Restore(RandomModel& model, core::KvDtype dtype, int tokens,
                                  const Effort& effort);

/// A sum over all ranks, in place.
struct ReducePoint {
  std::string link;  // "host", or as the link names itself
  std::string type;  // int64 (exact mode), float32 (fast mode)
  int64_t bytes = 0;
  double seconds = 0;
  double bus_bytes_per_second = 0;  // 2 (ranks - 1) / ranks times bytes a second, as nccl-tests
  std::string skipped;
};
/// By each link that there is, and through the hosts. Ranks are threads of this process, with a GPU
/// each, or in turn where there are more. sizes: bytes, multiples of 16.
absl::StatusOr<std::vector<ReducePoint>> ReduceRates(const std::vector<core::Gpu>& gpus, int ranks,
                                                     std::span<const int64_t> sizes,
                                                     const Effort& effort);

/// Operations a second of a dense product of bfloat16 matrices of `n` rows and columns by NVIDIA's
/// cuBLASLt. Errors: those of OpenCudaBlas.
absl::StatusOr<double> DenseRate(core::CudaMemory& memory, int64_t n, const Effort& effort);

}  // namespace tandem::bench
