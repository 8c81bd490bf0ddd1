#pragma once

#include <cstddef>
#include <vector>

#include "kv_store/base/shared_bytes.h"

namespace tandem::testing {

/// These from now on, but with the byte there changed by the bits: whoever shares them keeps his.
inline void Flip(kv_store::SharedBytes& bytes, size_t at, std::byte bits = std::byte{1}) {
  std::vector<std::byte> changed = bytes.Copy();
  changed.at(at) ^= bits;
  bytes = std::move(changed);
}

/// The same, with that byte there.
inline void SetByte(kv_store::SharedBytes& bytes, size_t at, std::byte value) {
  std::vector<std::byte> changed = bytes.Copy();
  changed.at(at) = value;
  bytes = std::move(changed);
}

}  // namespace tandem::testing
