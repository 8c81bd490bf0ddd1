#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

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

}  // namespace tandem::core
