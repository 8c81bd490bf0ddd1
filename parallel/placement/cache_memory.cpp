#include "parallel/placement/cache_memory.h"

#include <algorithm>

#include "core/base/counted.h"

namespace tandem::parallel {

absl::Status CheckCacheMemory(int64_t kv_memory, const std::string& host, int ranks,
                              int64_t available) {
  const int64_t sharers = std::max(1, ranks);
  const int64_t each = available / sharers;
  if (kv_memory <= each) return absl::OkStatus();
  return ResourceExhausted(
      "--kv-memory: {} of KV cache for {} of host {} are more than the {} of memory that are "
      "available there; give less than {}MiB, for the weights need some, too",
      SizeText(kv_memory), sharers == 1 ? "a rank" : fmt::format("each of {} ranks", sharers), host,
      SizeText(available), each >> 20);
}

}  // namespace tandem::parallel
