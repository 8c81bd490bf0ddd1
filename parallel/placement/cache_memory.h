#pragma once

#include <cstdint>
#include <string>

#include "core/base/status.h"

namespace tandem::parallel {

/// kResourceExhausted if a KV cache of --kv-memory bytes for each of the `ranks` of a host is more
/// than the `available` bytes of its memory. kv_memory: 0 where it is chosen by free memory.
absl::Status CheckCacheMemory(int64_t kv_memory, const std::string& host, int ranks,
                              int64_t available);

}  // namespace tandem::parallel
