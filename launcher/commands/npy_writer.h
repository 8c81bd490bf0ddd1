#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>

#include "core/base/status.h"

namespace tandem::launcher {

/// Streams float32 rows into a NumPy file of a known shape. The file appears under its name only
/// when it is complete. Source: numpy.lib.format, version 1.0. Thread safety: none.
class NpyWriter {
 public:
  static absl::StatusOr<std::unique_ptr<NpyWriter>> Create(const std::string& path, int64_t rows,
                                                           int64_t columns);
  ~NpyWriter();
  NpyWriter(const NpyWriter&) = delete;
  NpyWriter& operator=(const NpyWriter&) = delete;

  /// Appends one row. [columns]. The first error sticks and comes out of Finish.
  void Append(std::span<const float> row);
  /// Completes the file; an error if rows are missing or could not be written.
  absl::Status Finish();

 private:
  NpyWriter(std::string path, std::string temporary, std::FILE* file, int64_t rows)
      : path_(std::move(path)),
        temporary_(std::move(temporary)),
        file_(file),
        missing_rows_(rows) {}
  void RemoveTemporary();

  const std::string path_;
  const std::string temporary_;  // path_ itself, where that is no file
  std::FILE* file_;
  int64_t missing_rows_;
  absl::Status status_;
};

}  // namespace tandem::launcher
