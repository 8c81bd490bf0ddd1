/// Holds core/cuda/blas/cublaslt.h against NVIDIA's header, where there is one.
#if __has_include(<cublasLt.h>)
#include <cublasLt.h>

#include "core/cuda/blas/cublaslt.h"

namespace tandem::core::cublaslt {
namespace {

static_assert(kStatusSuccess == CUBLAS_STATUS_SUCCESS);
static_assert(kCompute32F == CUBLAS_COMPUTE_32F);
static_assert(kReal32F == CUDA_R_32F);
static_assert(kReal16BF == CUDA_R_16BF);
static_assert(kOperationTransposed == CUBLAS_OP_T);
static_assert(kDescTransposeA == CUBLASLT_MATMUL_DESC_TRANSA);
static_assert(kPreferenceMostWorkspace == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
static_assert(sizeof(MatmulAlgo) == sizeof(cublasLtMatmulAlgo_t));
static_assert(sizeof(HeuristicResult) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(HeuristicResult, workspace_bytes) ==
              offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
static_assert(offsetof(HeuristicResult, state) == offsetof(cublasLtMatmulHeuristicResult_t, state));

/// That a function of the library takes what ours is called with: each parameter of the same size.
template <typename... Ours, typename... Theirs>
constexpr bool SameSizes(int (*)(Ours...), cublasStatus_t (*)(Theirs...)) {
  if constexpr (sizeof...(Ours) != sizeof...(Theirs)) {
    return false;
  } else {
    return ((sizeof(Ours) == sizeof(Theirs)) && ...);
  }
}
constexpr Library kNone = {};
static_assert(SameSizes(kNone.Create, decltype (&cublasLtCreate)(nullptr)));
static_assert(SameSizes(kNone.Destroy, decltype (&cublasLtDestroy)(nullptr)));
static_assert(SameSizes(kNone.MatmulDescCreate, decltype (&cublasLtMatmulDescCreate)(nullptr)));
static_assert(SameSizes(kNone.MatmulDescSetAttribute,
                        decltype (&cublasLtMatmulDescSetAttribute)(nullptr)));
static_assert(SameSizes(kNone.MatmulDescDestroy, decltype (&cublasLtMatmulDescDestroy)(nullptr)));
static_assert(SameSizes(kNone.MatrixLayoutCreate, decltype (&cublasLtMatrixLayoutCreate)(nullptr)));
static_assert(SameSizes(kNone.MatrixLayoutDestroy,
                        decltype (&cublasLtMatrixLayoutDestroy)(nullptr)));
static_assert(SameSizes(kNone.MatmulPreferenceCreate,
                        decltype (&cublasLtMatmulPreferenceCreate)(nullptr)));
static_assert(SameSizes(kNone.MatmulPreferenceSetAttribute,
                        decltype (&cublasLtMatmulPreferenceSetAttribute)(nullptr)));
static_assert(SameSizes(kNone.MatmulPreferenceDestroy,
                        decltype (&cublasLtMatmulPreferenceDestroy)(nullptr)));
static_assert(SameSizes(kNone.MatmulAlgoGetHeuristic,
                        decltype (&cublasLtMatmulAlgoGetHeuristic)(nullptr)));
static_assert(SameSizes(kNone.Matmul, decltype (&cublasLtMatmul)(nullptr)));

}  // namespace
}  // namespace tandem::core::cublaslt
#endif
