#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/formats/gguf.h"
#include "core/model/config.h"
#include "core/model/matrix_source.h"

namespace tandem::core {

/// What a model is loaded from: its config, and its tensors asked for by name and shape.
///
/// Open has checked that every tensor of the config is there in its shape, so that a rank fails
/// before it packs anything. Thread safety: immutable after Open, SetAttention and
/// LiftContext.
class ModelFile {
 public:
  /// Opens a .gguf file. Errors name the path and what was expected: missing, a directory, empty,
  /// no GGUF, an unsupported architecture, missing tensors, wrong shapes.
  static absl::StatusOr<std::unique_ptr<ModelFile>> Open(const std::string& path);
  /// The same for a file in memory, which must outlive the result.
  static absl::StatusOr<std::unique_ptr<ModelFile>> OpenBuffer(std::span<const std::byte> bytes,
                                                               std::string name);

  /// Sets config().attention. kInvalidArgument for a window that is longer than the context.
  absl::Status SetAttention(const AttentionForm& form);
  /// ModelConfig::state_interval.
  void SetStateInterval(int tokens) { config_.state_interval = tokens; }
  /// Sets config().context to kMostContext: sequences are no longer limited by what the model was
  /// made for. After SetAttention.
  void LiftContext() { config_.context = std::max(config_.context, kMostContext); }
  static constexpr int kMostContext = 1 << 24;

  const std::string& path() const { return gguf_->path(); }
  const GgufFile& gguf() const { return *gguf_; }
  const ModelConfig& config() const { return config_; }

  bool Has(std::string_view name) const { return gguf_->FindTensor(name) != nullptr; }
  /// The matrix of that name: [rows, columns], any dtype. Its data and name lie in the file.
  absl::StatusOr<MatrixSource> Matrix(std::string_view name, int64_t rows, int64_t columns) const;
  /// The vector of that name: n floats, from F32, F16 or BF16.
  absl::StatusOr<std::vector<float>> Vector(std::string_view name, int64_t n) const;

  /// A number that tells files apart cheaply: a hash of the header, the size, and a sample of every
  /// tensor. Ranks compare it at startup to see that they opened the same model. No protection
  /// against someone who wants two files to look alike.
  uint64_t fingerprint() const { return fingerprint_; }
  /// A number that is another one once any of its files was written to or replaced, on this host:
  /// whatever was made of all their bytes before must not be taken for what they are now.
  uint64_t stamp() const { return stamp_; }

 private:
  static absl::StatusOr<std::unique_ptr<ModelFile>> FromGguf(std::unique_ptr<GgufFile> gguf);
  ModelFile() = default;

  std::unique_ptr<GgufFile> gguf_;
  ModelConfig config_;
  uint64_t fingerprint_ = 0;
  uint64_t stamp_ = 0;
};

}  // namespace tandem::core
