#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "tests/bench/gpu_bench/cublas_lt.h"
#include "tests/bench/gpu_bench/measure.h"
#include "tests/support/random.h"

namespace tandem::bench {
namespace {

using namespace cublas_lt;  // NOLINT(google-build-using-namespace)

constexpr size_t kWorkspaceBytes = size_t{64} << 20;
constexpr int kProductsAtOnce = 8;

/// The library, and its functions by name.
class Library {
 public:
  absl::Status Open() {
    for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"}) {
      library_ = dlopen(name, RTLD_NOW | RTLD_LOCAL);
      if (library_ != nullptr) return absl::OkStatus();
    }
    return Unimplemented("cuBLASLt (libcublasLt.so) is not installed");
  }
  template <typename Function>
  Function Get(const char* name) {
    void* symbol = dlsym(library_, name);
    if (symbol == nullptr && missing_.empty()) missing_ = name;
    return reinterpret_cast<Function>(symbol);
  }
  const std::string& missing() const { return missing_; }

 private:
  void* library_ = nullptr;  // stays: it has threads and memory of its own
  std::string missing_;
};

absl::Status Check(int status, const char* call) {
  if (status == 0) return absl::OkStatus();
  return Unavailable("{} failed with status {}", call, status);
}

/// bfloat16 of magnitude 1 to 2: zeros would take less power, and so be faster.
absl::StatusOr<std::shared_ptr<std::byte>> RandomMatrix(core::CudaMemory& memory, int64_t bytes) {
  TANDEM_ASSIGN_OR_RETURN(std::shared_ptr<std::byte> matrix, memory.AllocateZeroed(bytes));
  constexpr int64_t kPattern = int64_t{1} << 20;
  std::vector<uint16_t> values(static_cast<size_t>(std::min(kPattern, bytes / 2)));
  testing::SplitMix random(1);
  for (uint16_t& value : values) value = static_cast<uint16_t>(0x3f80 | (random.Next() & 0x807f));
  const core::CopyRun run{.device = matrix.get(),
                          .host = reinterpret_cast<std::byte*>(values.data()),
                          .bytes = values.size() * sizeof(uint16_t)};
  TANDEM_RETURN_IF_ERROR(memory.CopyFromHost({&run, 1}));
  TANDEM_RETURN_IF_ERROR(Repeat(memory, matrix.get(), static_cast<int64_t>(run.bytes), bytes));
  return matrix;
}

/// [n, n] bfloat16 times [n, n], the first transposed, as weights are.
class Product {
 public:
  absl::Status Prepare(core::CudaMemory& memory, int64_t n) {
    Library library;
    TANDEM_RETURN_IF_ERROR(library.Open());
    const auto create = library.Get<Create>("cublasLtCreate");
    const auto product_create = library.Get<ProductCreate>("cublasLtMatmulDescCreate");
    const auto product_set = library.Get<ProductSet>("cublasLtMatmulDescSetAttribute");
    const auto layout_create = library.Get<LayoutCreate>("cublasLtMatrixLayoutCreate");
    const auto preference_create = library.Get<PreferenceCreate>("cublasLtMatmulPreferenceCreate");
    const auto preference_set = library.Get<PreferenceSet>("cublasLtMatmulPreferenceSetAttribute");
    const auto choose = library.Get<Choose>("cublasLtMatmulAlgoGetHeuristic");
    multiply_ = library.Get<Multiply>("cublasLtMatmul");
    if (!library.missing().empty()) {
      return Unimplemented("the installed cuBLASLt has no {}", library.missing());
    }
    stream_ = memory.stream();
    const auto bytes = 2 * n * n;
    TANDEM_ASSIGN_OR_RETURN(a_, RandomMatrix(memory, bytes));
    TANDEM_ASSIGN_OR_RETURN(b_, RandomMatrix(memory, bytes));
    TANDEM_ASSIGN_OR_RETURN(c_, memory.AllocateZeroed(bytes));
    TANDEM_ASSIGN_OR_RETURN(workspace_, memory.AllocateZeroed(kWorkspaceBytes));
    TANDEM_RETURN_IF_ERROR(Check(create(&handle_), "cublasLtCreate"));
    TANDEM_RETURN_IF_ERROR(
        Check(product_create(&product_, kComputeFloat32, kFloat32), "cublasLtMatmulDescCreate"));
    TANDEM_RETURN_IF_ERROR(
        Check(product_set(product_, kTransposeA, &kTransposed, sizeof(kTransposed)),
              "cublasLtMatmulDescSetAttribute"));
    const auto size = static_cast<uint64_t>(n);
    TANDEM_RETURN_IF_ERROR(
        Check(layout_create(&layout_, kBfloat16, size, size, n), "cublasLtMatrixLayoutCreate"));
    Object preference = nullptr;
    TANDEM_RETURN_IF_ERROR(Check(preference_create(&preference), "cublasLtMatmulPreferenceCreate"));
    TANDEM_RETURN_IF_ERROR(Check(
        preference_set(preference, kMostWorkspaceBytes, &kWorkspaceBytes, sizeof(kWorkspaceBytes)),
        "cublasLtMatmulPreferenceSetAttribute"));
    int found = 0;
    TANDEM_RETURN_IF_ERROR(Check(choose(handle_, product_, layout_, layout_, layout_, layout_,
                                        preference, 1, &choice_, &found),
                                 "cublasLtMatmulAlgoGetHeuristic"));
    return found > 0 ? absl::OkStatus() : Unimplemented("cuBLASLt has no such product");
  }

  absl::Status Run() {
    const float one = 1;
    const float zero = 0;
    return Check(multiply_(handle_, product_, &one, a_.get(), layout_, b_.get(), layout_, &zero,
                           c_.get(), layout_, c_.get(), layout_, &choice_.algorithm,
                           workspace_.get(), kWorkspaceBytes, stream_),
                 "cublasLtMatmul");
  }
  std::byte* result() { return c_.get(); }

 private:
  Handle handle_ = nullptr;
  Object product_ = nullptr;
  Object layout_ = nullptr;
  Choice choice_ = {};
  Multiply multiply_ = nullptr;
  core::CudaStream stream_ = nullptr;
  std::shared_ptr<std::byte> a_, b_, c_, workspace_;
};

}  // namespace

absl::StatusOr<double> DenseRate(core::CudaMemory& memory, int64_t n, const Effort& effort) {
  Product product;
  TANDEM_RETURN_IF_ERROR(product.Prepare(memory, n));
  using Clock = std::chrono::steady_clock;
  const auto run = [&]() -> absl::Status {
    for (int i = 0; i < kProductsAtOnce; ++i) TANDEM_RETURN_IF_ERROR(product.Run());
    std::byte two[2];
    const core::CopyRun read{.device = product.result(), .host = two, .bytes = sizeof(two)};
    return memory.CopyToHost({&read, 1});
  };
  TANDEM_RETURN_IF_ERROR(run());
  const auto begin = Clock::now();
  double seconds = 0;
  int products = 0;
  while (products < kProductsAtOnce * effort.least || seconds < effort.seconds) {
    TANDEM_RETURN_IF_ERROR(run());
    products += kProductsAtOnce;
    seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  }
  const auto size = static_cast<double>(n);
  return 2 * size * size * size * products / seconds;
}

}  // namespace tandem::bench
