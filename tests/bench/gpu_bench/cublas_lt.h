#pragma once

#include <cstddef>
#include <cstdint>

#include "core/cuda/kernels/cuda_stream.h"

/// What is used of NVIDIA's cuBLASLt, which is found at run time. Source: cuBLAS 13.0, "Using the
/// cuBLASLt API"; tests/bench/gpu_bench/cublas_lt_check.cpp holds it against NVIDIA's header.
namespace tandem::bench::cublas_lt {

using Handle = void*;
using Object = void*;  // a product's description, a matrix' layout, a preference

inline constexpr int kBfloat16 = 14;           // CUDA_R_16BF
inline constexpr int kFloat32 = 0;             // CUDA_R_32F
inline constexpr int kComputeFloat32 = 68;     // CUBLAS_COMPUTE_32F
inline constexpr int kTransposeA = 3;          // CUBLASLT_MATMUL_DESC_TRANSA
inline constexpr int32_t kTransposed = 1;      // CUBLAS_OP_T
inline constexpr int kMostWorkspaceBytes = 1;  // CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES

struct Algorithm {
  uint64_t data[8];
};
struct Choice {
  Algorithm algorithm;
  size_t workspace_bytes;
  int status;
  float waves;
  int reserved[4];
};

using Create = int (*)(Handle*);
using Destroy = int (*)(Handle);
using ProductCreate = int (*)(Object*, int compute, int scale);
using ProductSet = int (*)(Object, int attribute, const void*, size_t);
using LayoutCreate = int (*)(Object*, int type, uint64_t rows, uint64_t columns, int64_t stride);
using PreferenceCreate = int (*)(Object*);
using PreferenceSet = int (*)(Object, int attribute, const void*, size_t);
using Choose = int (*)(Handle, Object product, Object a, Object b, Object c, Object d,
                       Object preference, int wanted, Choice*, int* found);
using Multiply = int (*)(Handle, Object product, const void* alpha, const void* a, Object a_layout,
                         const void* b, Object b_layout, const void* beta, const void* c,
                         Object c_layout, void* d, Object d_layout, const Algorithm*,
                         void* workspace, size_t workspace_bytes, core::CudaStream);
using DestroyObject = int (*)(Object);

}  // namespace tandem::bench::cublas_lt
