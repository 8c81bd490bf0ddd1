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

FoundRecord FoundIn(TierKind from, const TierRecord& record) {
  return {.bytes = record.bytes,
          .from = from,
          .block = record.block,
          .before = record.before,
          .tenant = record.tenant};
}

TierRecord CopyOf(const RecordKey& key, const FoundRecord& found) {
  return {.key = key,
          .block = found.block,
          .before = found.before,
          .tenant = found.tenant,
          .bytes = found.bytes};
}

std::vector<bool> Tier::Exists(std::span<const RecordKey> keys) {
  std::vector<bool> exists;
  exists.reserve(keys.size());
  for (const std::optional<TierKind>& where : Where(keys)) exists.push_back(where.has_value());
  return exists;
}

}  // namespace tandem::kv_store
