#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/cuda/cuda_operations.h"
#include "core/formats/model_file.h"
#include "core/transformer/transformer.h"
#include "tests/support/tiny_model.h"

/// Models of a shape alone, to measure speed on: their weights are random and made on the GPU.
namespace tandem::bench {

struct ModelShape {
  std::string name;  // empty: there is no such
  testing::TinyModelSpec spec;
  int ranks = 1;  // of which the first one's shard is measured, without the others
};
/// "1b", "8b", "70b/8" (a rank of eight), and "tiny" for tests. Empty for another name.
ModelShape ShapeOf(const std::string& name);

/// Copies the first `bytes` behind themselves, on the GPU, until there are `total`.
absl::Status Repeat(core::CudaMemory& memory, std::byte* begin, int64_t bytes, int64_t total);

/// The operations of a GPU, but weights are random whatever the file has: a few rows of them are
/// packed on the host, and repeated on the GPU.
class RandomWeights final : public core::CudaOperations {
 public:
  using core::CudaOperations::CudaOperations;
  absl::StatusOr<std::unique_ptr<core::Weight>> Pack(const core::MatrixSource& source,
                                                     core::Range rows,
                                                     core::Range columns) override;
};

/// The shard of a model, loaded.
class RandomModel {
 public:
  /// dtype: of all matrices. The file is memory that nobody writes, so that it takes none.
  static absl::StatusOr<std::unique_ptr<RandomModel>> Make(const ModelShape& shape,
                                                           core::DType dtype, const core::Gpu& gpu,
                                                           bool exact, bool graphs,
                                                           const core::Progress& progress);
  RandomModel(const RandomModel&) = delete;
  RandomModel& operator=(const RandomModel&) = delete;
  ~RandomModel();

  const core::ModelConfig& config() const { return file_->config(); }
  const core::Shard& shard() const { return shard_; }
  core::Transformer& model() { return *model_; }
  core::CudaOperations& operations() { return *operations_; }

 private:
  RandomModel() = default;
  absl::Status MakeFile(const ModelShape& shape, core::DType dtype);

  std::span<std::byte> mapped_;
  std::unique_ptr<core::ModelFile> file_;
  core::Shard shard_;
  std::unique_ptr<RandomWeights> operations_;
  std::unique_ptr<core::Transformer> model_;
};

}  // namespace tandem::bench
