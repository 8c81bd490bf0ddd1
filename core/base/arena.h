#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace tandem::core {

/// Where packed matrices lie: memory that is to be packed into, or that an earlier process has
/// packed already. Thread safety: none; the loading thread takes.
class PackedMemory {
 public:
  struct Place {
    std::byte* data = nullptr;  // at a multiple of 64
    bool filled = false;        // the matrix is there, and must not be written; else zeros
  };
  virtual ~PackedMemory() = default;

  /// The place of the next matrix; name: by which it is known again. kResourceExhausted for want
  /// of memory; kDataLoss if what an earlier process packed next is another one.
  virtual absl::StatusOr<Place> Take(std::string_view name, int64_t bytes) = 0;
};

/// Memory that lives as long as the arena, 64-byte aligned, zeroed, on transparent huge pages where
/// the system gives them. Thread safety: none; allocations are made by the loading thread.
class Arena final : public PackedMemory {
 public:
  /// purpose: what the memory is for, in errors.
  explicit Arena(const char* purpose = "weights") : purpose_(purpose) {}
  ~Arena() override;
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&&) = delete;

  /// `bytes` of memory, or an error that says how much was asked for.
  absl::StatusOr<std::byte*> Allocate(int64_t bytes);
  absl::StatusOr<Place> Take(std::string_view name, int64_t bytes) override;
  int64_t bytes() const { return allocated_; }

 private:
  struct Chunk {
    std::byte* data;
    int64_t size;
    int64_t used;
  };
  const char* purpose_;
  std::vector<Chunk> chunks_;
  int64_t allocated_ = 0;
};

}  // namespace tandem::core
