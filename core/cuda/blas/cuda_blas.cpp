#include "core/cuda/blas/cuda_blas.h"

#include <cuda_runtime.h>
#include <dlfcn.h>

#include <map>
#include <tuple>

#include "core/cuda/blas/cublaslt.h"
#include "core/cuda/kernels/launch.h"

namespace tandem::core {
namespace {

constexpr size_t kWorkspaceBytes = kBlasWorkspaceBytes;

/// One of the library's objects, destroyed by it.
class LibraryObject {
 public:
  explicit LibraryObject(int (*destroy)(void*)) : destroy_(destroy) {}
  ~LibraryObject() {
    if (object_ != nullptr) destroy_(object_);
  }
  LibraryObject(const LibraryObject&) = delete;
  LibraryObject& operator=(const LibraryObject&) = delete;
  void* get() const { return object_; }
  void** place() { return &object_; }

 private:
  int (*destroy_)(void*);
  void* object_ = nullptr;
};

bool Done(int status) { return status == cublaslt::kStatusSuccess; }

template <typename Function>
bool Find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

class CublasLtProducts final : public CudaBlas {
 public:
  /// library: open until the program ends.
  CublasLtProducts(const cublaslt::Library& library, void* handle)
      : library_(library), handle_(handle) {
    CheckCuda(cudaMalloc(&workspace_, kWorkspaceBytes), "cudaMalloc");
  }
  ~CublasLtProducts() override {
    cudaFree(workspace_);
    library_.Destroy(handle_);
  }
  CublasLtProducts(const CublasLtProducts&) = delete;
  CublasLtProducts& operator=(const CublasLtProducts&) = delete;

  bool Multiply(CudaStream stream, const Product& product) override;

 private:
  using Shape = std::tuple<int64_t, int64_t, int64_t, int64_t>;
  /// A shape's algorithm, and whether there is one.
  struct Algorithm {
    cublaslt::MatmulAlgo algo;
    bool found = false;
  };

  const cublaslt::Library library_;
  void* const handle_;
  void* workspace_ = nullptr;
  std::map<Shape, Algorithm> algorithms_;
};

// The library's matrices have columns that lie together, so a matrix of ours is its transpose:
// out [rows, tokens] = transposed weights [columns, rows] * x [columns, tokens].
bool CublasLtProducts::Multiply(CudaStream stream, const Product& product) {
  LibraryObject desc(library_.MatmulDescDestroy);
  LibraryObject weights(library_.MatrixLayoutDestroy);
  LibraryObject x(library_.MatrixLayoutDestroy);
  LibraryObject out(library_.MatrixLayoutDestroy);
  const auto rows = static_cast<uint64_t>(product.rows);
  const auto tokens = static_cast<uint64_t>(product.tokens);
  const auto columns = static_cast<uint64_t>(product.columns);
  const int transposed = cublaslt::kOperationTransposed;
  if (!Done(library_.MatmulDescCreate(desc.place(), cublaslt::kCompute32F, cublaslt::kReal32F)) ||
      !Done(library_.MatmulDescSetAttribute(desc.get(), cublaslt::kDescTransposeA, &transposed,
                                            sizeof(transposed))) ||
      !Done(library_.MatrixLayoutCreate(weights.place(), cublaslt::kReal16BF, columns, rows,
                                        product.columns)) ||
      !Done(library_.MatrixLayoutCreate(x.place(), cublaslt::kReal16BF, columns, tokens,
                                        product.columns)) ||
      !Done(library_.MatrixLayoutCreate(out.place(), cublaslt::kReal32F, rows, tokens,
                                        product.out_stride))) {
    return false;
  }
  const Shape shape = {product.rows, product.tokens, product.columns, product.out_stride};
  auto at = algorithms_.find(shape);
  if (at == algorithms_.end()) {
    LibraryObject preference(library_.MatmulPreferenceDestroy);
    cublaslt::HeuristicResult result = {};
    int found = 0;
    const bool asked =
        Done(library_.MatmulPreferenceCreate(preference.place())) &&
        Done(library_.MatmulPreferenceSetAttribute(preference.get(),
                                                   cublaslt::kPreferenceMostWorkspace,
                                                   &kWorkspaceBytes, sizeof(kWorkspaceBytes))) &&
        Done(library_.MatmulAlgoGetHeuristic(handle_, desc.get(), weights.get(), x.get(), out.get(),
                                             out.get(), preference.get(), 1, &result, &found));
    at = algorithms_.emplace(shape, Algorithm{result.algo, asked && found > 0}).first;
  }
  if (!at->second.found) return false;
  const float one = 1.0F;
  const float zero = 0.0F;
  return Done(library_.Matmul(handle_, desc.get(), &one, product.weights, weights.get(), product.x,
                              x.get(), &zero, product.out, out.get(), product.out, out.get(),
                              &at->second.algo, workspace_, kWorkspaceBytes, stream));
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaBlas>> OpenCudaBlas() {
  void* library = nullptr;
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"}) {
    library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) break;
  }
  if (library == nullptr) {
    return Unavailable(
        "cuBLASLt of CUDA 12 or 13 is not here ({}); install it, name its folder in "
        "LD_LIBRARY_PATH, or leave --no-exact away",
        dlerror());
  }
  cublaslt::Library found = {};
  if (!Find(library, "cublasLtCreate", found.Create) ||
      !Find(library, "cublasLtDestroy", found.Destroy) ||
      !Find(library, "cublasLtMatmulDescCreate", found.MatmulDescCreate) ||
      !Find(library, "cublasLtMatmulDescSetAttribute", found.MatmulDescSetAttribute) ||
      !Find(library, "cublasLtMatmulDescDestroy", found.MatmulDescDestroy) ||
      !Find(library, "cublasLtMatrixLayoutCreate", found.MatrixLayoutCreate) ||
      !Find(library, "cublasLtMatrixLayoutDestroy", found.MatrixLayoutDestroy) ||
      !Find(library, "cublasLtMatmulPreferenceCreate", found.MatmulPreferenceCreate) ||
      !Find(library, "cublasLtMatmulPreferenceSetAttribute", found.MatmulPreferenceSetAttribute) ||
      !Find(library, "cublasLtMatmulPreferenceDestroy", found.MatmulPreferenceDestroy) ||
      !Find(library, "cublasLtMatmulAlgoGetHeuristic", found.MatmulAlgoGetHeuristic) ||
      !Find(library, "cublasLtMatmul", found.Matmul)) {
    return Unavailable("cuBLASLt lacks a function ({})", dlerror());
  }
  void* handle = nullptr;
  if (const int status = found.Create(&handle); !Done(status)) {
    return Unavailable("cuBLASLt does not start: status {} of cublasLtCreate", status);
  }
  return std::make_unique<CublasLtProducts>(found, handle);
}

}  // namespace tandem::core
