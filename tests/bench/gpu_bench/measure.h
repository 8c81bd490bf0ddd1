#pragma once

#include <cstdint>
#include <functional>
#include <string>

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

/// Operations a second of a dense product of bfloat16 matrices of `n` rows and columns by NVIDIA's
/// cuBLASLt. Errors: those of OpenCudaBlas.
absl::StatusOr<double> DenseRate(core::CudaMemory& memory, int64_t n, const Effort& effort);

}  // namespace tandem::bench
