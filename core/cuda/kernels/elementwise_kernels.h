#pragma once

#include <cstdint>

#include "core/cuda/kernels/cuda_stream.h"
#include "core/model/config.h"

/// The functions of core/cpu/elementwise on a GPU, for all rows of a step, with the same bits. All
/// pointers are to memory of the device, rows stand one after the other, and work is put into
/// `stream`. Thread safety: any thread.
namespace tandem::core {

/// A norm as core/model/norm.h has it.
struct NormVectors {
  NormKind kind = NormKind::kRms;
  float epsilon = 0.0F;
  const float* weight = nullptr;  // [columns]; null: there is no norm
  const float* bias = nullptr;    // [columns], or null
};

/// Normalizes row by row. x, out: [rows, columns]; out may be x. Order: Normalize of
/// core/cpu/elementwise/elementwise.h.
void LaunchNormalize(CudaStream stream, const NormVectors& norm, const float* x, int64_t rows,
                     int64_t columns, float* out);

/// x += y. [n]
void LaunchAdd(CudaStream stream, const float* y, int64_t n, float* x);

/// x += y in each row. x: [rows, columns]; y: [columns]
void LaunchAddToRows(CudaStream stream, const float* y, int64_t rows, int64_t columns, float* x);

/// out = act(gate) * up. [n]; out may be gate or up.
void LaunchGatedActivation(CudaStream stream, Activation kind, const float* gate, const float* up,
                           int64_t n, float* out);

/// x = act(x). [n]
void LaunchActivate(CudaStream stream, Activation kind, int64_t n, float* x);

/// word = the step's number, in its upper half, and no reduction of it. word: pinned host memory,
/// whose lower half is that of a ReductionMark.
void LaunchMarkStep(CudaStream stream, uint32_t number, uint64_t* word);

/// Where a kernel says that it has come to a reduction of its step; word null: nowhere.
struct ReductionMark {
  uint32_t* word = nullptr;  // pinned host memory
  uint32_t number = 0;       // of the reduction
};

/// Reduced partial sums on their way to the residual, as integers or as what SumsToFloats gave.
struct PartialSumRows {
  const int64_t* sums = nullptr;    // [rows, columns]
  const int64_t* failed = nullptr;  // [rows]
  const float* floats = nullptr;    // [rows, columns], then [rows] of `failed`; null: the integers
  const float* bias = nullptr;      // [columns], or null
  NormVectors post_norm = {};
  ReductionMark mark = {};
};

/// What fast mode reduces in the place of integers: half the bytes. out: [rows, columns] sums as
/// floats, then [rows], not 0 where failed is not.
void LaunchSumsToFloats(CudaStream stream, const int64_t* sums, const int64_t* failed, int64_t rows,
                        int64_t columns, float* out);

/// x += norm(float(sums) + bias); token_failed[row] = 1 where failed[row] is not 0. x: [rows,
/// columns]; token_failed: [rows]
void LaunchAddPartialSums(CudaStream stream, const PartialSumRows& from, int64_t rows,
                          int64_t columns, float* x, uint8_t* token_failed);

/// out[i] = x[rows[i]]. rows: [count]; out: [count, columns]
void LaunchSelectRows(CudaStream stream, const float* x, const int32_t* rows, int64_t count,
                      int64_t columns, float* out);

}  // namespace tandem::core
