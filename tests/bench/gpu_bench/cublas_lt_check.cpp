// Compiled where NVIDIA's header is: what cublas_lt.h has is what that has.

#include <cublasLt.h>

#include "tests/bench/gpu_bench/cublas_lt.h"

namespace tandem::bench::cublas_lt {

static_assert(kBfloat16 == CUDA_R_16BF && kFloat32 == CUDA_R_32F);
static_assert(kComputeFloat32 == CUBLAS_COMPUTE_32F);
static_assert(kTransposeA == CUBLASLT_MATMUL_DESC_TRANSA && kTransposed == CUBLAS_OP_T);
static_assert(kMostWorkspaceBytes == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
static_assert(sizeof(Algorithm) == sizeof(cublasLtMatmulAlgo_t));
static_assert(sizeof(Choice) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(Choice, status) == offsetof(cublasLtMatmulHeuristicResult_t, state));
static_assert(offsetof(Choice, workspace_bytes) ==
              offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
static_assert(sizeof(Handle) == sizeof(cublasLtHandle_t));

}  // namespace tandem::bench::cublas_lt
