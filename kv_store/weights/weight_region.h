#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "absl/functional/function_ref.h"
#include "core/base/status.h"

namespace tandem::kv_store {

/// Does body(task) for every task in [0, tasks), at once where there are threads for it.
using RunTasks = std::function<void(int64_t tasks, absl::FunctionRef<void(int64_t task)> body)>;

/// Memory for packed weights that begins at a huge page's boundary: of a file, which others may
/// map, or this process's own. Thread safety: none.
class WeightRegion {
 public:
  static constexpr int64_t kHugePage = int64_t{2} << 20;

  /// The first `bytes` of a file, which must be that long.
  static absl::StatusOr<WeightRegion> OfFile(int file, int64_t bytes, bool writable);
  /// Zeros that are in no file.
  static absl::StatusOr<WeightRegion> Private(int64_t bytes);

  WeightRegion() = default;
  WeightRegion(WeightRegion&& other) noexcept { *this = std::move(other); }
  WeightRegion& operator=(WeightRegion&& other) noexcept;
  ~WeightRegion();

  std::span<std::byte> bytes() const { return {data_, static_cast<size_t>(size_)}; }

  /// Gives a file that is all holes its memory, on huge pages where the system has them, by the
  /// threads that will write it. kResourceExhausted where the file system has no room (without
  /// this, whoever writes there would be killed); kUnimplemented before Linux 5.14.
  absl::Status Fill(const RunTasks& run);
  /// Puts what is there on huge pages, as far as the system does.
  void Collapse(const RunTasks& run);
  /// How much of it lies on huge pages.
  int64_t HugeBytes() const;
  /// Moves what is there into memory of this process's own, at the same place. kResourceExhausted.
  absl::Status MakePrivate(const RunTasks& run);
  /// From now on it can only be read.
  void Protect();

 private:
  WeightRegion(std::byte* data, int64_t size) : data_(data), size_(size) {}

  std::byte* data_ = nullptr;
  int64_t size_ = 0;  // whole small pages
};

/// Whether a process's own memory may lie on huge pages here.
bool PrivateMemoryMayBeHuge();

}  // namespace tandem::kv_store
