#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "core/base/packed_memory.h"
#include "core/base/status.h"

namespace tandem::core {

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
