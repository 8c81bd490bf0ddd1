#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "kv_store/base/shared_bytes.h"

namespace tandem::kv_store {

/// Memory of bytes that are done with, for the next ones: memory that the system has to give anew
/// costs more than all that is written into it. Thread safety: all functions.
class BufferPool {
 public:
  /// most_bytes: that lie here unused.
  explicit BufferPool(size_t most_bytes);

  /// Memory that was used before, with whatever is in it; empty if there is none.
  std::vector<std::byte> Take();
  /// The same bytes, whose memory comes back when nobody holds them any more. They may outlive the
  /// pool.
  SharedBytes Share(std::vector<std::byte> bytes);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace tandem::kv_store
