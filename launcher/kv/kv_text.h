#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "core/base/status.h"
#include "kv_store/catalog/catalog.h"
#include "kv_store/catalog/catalog_garbage.h"
#include "launcher/commands/json_output.h"
#include "launcher/kv/kv_access.h"
#include "launcher/kv/kv_prefixes.h"

/// How the commands of `tandem kv` write what they found.
namespace tandem::launcher {

/// The first digits of a fingerprint: enough to tell models apart.
std::string ShortFingerprint(const kv_store::Fingerprint& fingerprint);
/// All digits of a fingerprint.
std::string FullFingerprint(const kv_store::Fingerprint& fingerprint);
/// "host+disk".
std::string TiersText(uint8_t tiers);
/// "2026-11-27 19:33", local; "-" of a use that no clock was read at.
std::string TimeText(uint64_t microseconds);
/// The name of a tenant, "-" of the nameless one, or its number where no conversation tells it.
std::string TenantText(const std::map<uint64_t, std::string>& names,
                       const std::optional<uint64_t>& tenant);
/// "320"; "?+320" where it is not known how many are before it.
std::string TokensText(const KvPrefix& prefix);
/// The position of a prefix's block of the chain, or null.
nlohmann::ordered_json FirstTokenJson(const KvPrefix& prefix, size_t chain_index);
/// "complete", or what is wrong.
std::string StateText(const KvPrefix& prefix);

nlohmann::ordered_json PrefixJson(const KvPrefix& prefix, const kv_store::Catalog& catalog,
                                  const std::map<uint64_t, std::string>& tenants);
nlohmann::ordered_json ModelsJson(const kv_store::Catalog& catalog);
/// A sum over blocks.
struct KvTotals {
  int64_t blocks = 0;
  int64_t records = 0;
  int64_t bytes = 0;

  void Add(const kv_store::CatalogBlock& block);
  void Add(const kv_store::Catalog& catalog, const kv_store::Garbage& garbage);
};
KvTotals TotalsOf(const kv_store::Catalog& catalog);
nlohmann::ordered_json TotalsJson(const KvTotals& totals);

/// Reads the catalog, with progress on standard error.
absl::StatusOr<kv_store::Catalog> ReadCatalog(KvAccess& access, bool reads_all);

}  // namespace tandem::launcher
