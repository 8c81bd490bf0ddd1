#include "kv_store/records/tier.h"

namespace tandem::kv_store {

std::string_view TierName(TierKind kind) {
  switch (kind) {
    case TierKind::kHost:
      return "host";
    case TierKind::kDisk:
      return "disk";
    case TierKind::kRemote:
      return "remote";
  }
  return "host";
}

}  // namespace tandem::kv_store
