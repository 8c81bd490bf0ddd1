#pragma once

#include <cstddef>
#include <cstdint>

#include "core/cuda/kernels/cuda_stream.h"

/// The part of cuBLASLt that is called, declared here since the library is found at run time and a
/// machine may have no header of it. cublaslt_header.cu compares both. Source: cuBLAS 13.0,
/// "cuBLASLt API".
namespace tandem::core::cublaslt {

// NOLINTBEGIN: the names are NVIDIA's, without cublasLt

using Handle = void*;
using MatmulDesc = void*;
using MatrixLayout = void*;
using MatmulPreference = void*;

inline constexpr int kStatusSuccess = 0;
inline constexpr int kCompute32F = 68;
inline constexpr int kReal32F = 0;
inline constexpr int kReal16BF = 14;
inline constexpr int kOperationTransposed = 1;
inline constexpr int kDescTransposeA = 3;
inline constexpr int kPreferenceMostWorkspace = 1;

struct MatmulAlgo {
  uint64_t data[8];
};
struct HeuristicResult {
  MatmulAlgo algo;
  size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
};

/// The functions, by their names without cublasLt. All give a status.
struct Library {
  int (*Create)(Handle*);
  int (*Destroy)(Handle);
  int (*MatmulDescCreate)(MatmulDesc*, int compute, int scale);
  int (*MatmulDescSetAttribute)(MatmulDesc, int attribute, const void*, size_t);
  int (*MatmulDescDestroy)(MatmulDesc);
  int (*MatrixLayoutCreate)(MatrixLayout*, int type, uint64_t rows, uint64_t columns, int64_t ld);
  int (*MatrixLayoutDestroy)(MatrixLayout);
  int (*MatmulPreferenceCreate)(MatmulPreference*);
  int (*MatmulPreferenceSetAttribute)(MatmulPreference, int attribute, const void*, size_t);
  int (*MatmulPreferenceDestroy)(MatmulPreference);
  int (*MatmulAlgoGetHeuristic)(Handle, MatmulDesc, MatrixLayout a, MatrixLayout b, MatrixLayout c,
                                MatrixLayout d, MatmulPreference, int wanted, HeuristicResult*,
                                int* found);
  int (*Matmul)(Handle, MatmulDesc, const void* alpha, const void* a, MatrixLayout, const void* b,
                MatrixLayout, const void* beta, const void* c, MatrixLayout, void* d, MatrixLayout,
                const MatmulAlgo*, void* workspace, size_t workspace_bytes, CudaStream);
};

// NOLINTEND

}  // namespace tandem::core::cublaslt
