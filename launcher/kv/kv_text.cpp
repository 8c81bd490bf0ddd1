#include "launcher/kv/kv_text.h"

#include <array>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/base/counted.h"
#include "fmt/chrono.h"
#include "fmt/ranges.h"
#include "kv_store/base/hex.h"
#include "launcher/job/progress_display.h"
#include "launcher/options/model_choices.h"

namespace tandem::launcher {
namespace {

using nlohmann::ordered_json;

constexpr size_t kShortBytes = 4;
// Older records have a number for a time of use, counted from 1.
constexpr uint64_t kFirstTime = 1'000'000'000'000'000;  // microseconds: in 2001

ordered_json TimeJson(uint64_t microseconds) {
  if (microseconds < kFirstTime) return nullptr;
  return static_cast<double>(microseconds) / 1e6;
}

std::vector<std::string> TierNames(uint8_t tiers) {
  std::vector<std::string> names;
  for (const kv_store::TierKind kind :
       {kv_store::TierKind::kHost, kv_store::TierKind::kDisk, kv_store::TierKind::kRemote}) {
    if ((tiers & kv_store::TierBit(kind)) != 0) names.emplace_back(kv_store::TierName(kind));
  }
  return names;
}

}  // namespace

std::string ShortFingerprint(const kv_store::Fingerprint& fingerprint) {
  return kv_store::Hex(std::span(fingerprint).first(kShortBytes));
}

std::string FullFingerprint(const kv_store::Fingerprint& fingerprint) {
  return kv_store::Hex(fingerprint);
}

std::string TiersText(uint8_t tiers) { return fmt::format("{}", fmt::join(TierNames(tiers), "+")); }

std::string TimeText(uint64_t microseconds) {
  if (microseconds < kFirstTime) return "-";
  return fmt::format("{:%Y-%m-%d %H:%M}",
                     fmt::localtime(static_cast<std::time_t>(microseconds / 1'000'000)));
}

std::string TenantText(const std::map<uint64_t, std::string>& names,
                       const std::optional<uint64_t>& tenant) {
  if (!tenant) return "?";
  const auto found = names.find(*tenant);
  if (found == names.end()) return fmt::format("#{:016x}", *tenant);
  return found->second.empty() ? "-" : found->second;
}

std::string TokensText(const KvPrefix& prefix) {
  return fmt::format("{}{}", prefix.positions_known ? "" : "?+", prefix.tokens);
}

ordered_json FirstTokenJson(const KvPrefix& prefix, size_t chain_index) {
  if (!prefix.positions_known) return nullptr;
  return prefix.first_tokens[chain_index];
}

std::string StateText(const KvPrefix& prefix) {
  if (prefix.complete) return "complete";
  return fmt::format("incomplete: {} of use", Counted(prefix.usable_tokens, "token"));
}

ordered_json PrefixJson(const KvPrefix& prefix, const kv_store::Catalog& catalog,
                        const std::map<uint64_t, std::string>& tenants) {
  const auto name = prefix.tenant ? tenants.find(*prefix.tenant) : tenants.end();
  return {{"prefix", prefix.id},
          {"model", FullFingerprint(catalog.models()[prefix.model].fingerprint)},
          {"tenant", name == tenants.end() ? ordered_json(nullptr) : ordered_json(name->second)},
          {"tenant_number", prefix.tenant ? ordered_json(fmt::format("{:016x}", *prefix.tenant))
                                          : ordered_json(nullptr)},
          {"conversations", prefix.conversations},
          {"first_token", FirstTokenJson(prefix, 0)},
          {"tokens", prefix.tokens},
          {"usable_tokens", prefix.usable_tokens},
          {"complete", prefix.complete},
          {"blocks", prefix.blocks.size()},
          {"records", prefix.records},
          {"bytes", prefix.bytes},
          {"tiers", TierNames(prefix.tiers)},
          {"last_use", TimeJson(prefix.last_use)}};
}

ordered_json ModelsJson(const kv_store::Catalog& catalog) {
  ordered_json models = ordered_json::array();
  for (const kv_store::CatalogModel& model : catalog.models()) {
    ordered_json groups = ordered_json::array();
    for (const auto& [group, layers] : model.layers) {
      groups.push_back(
          {{"group", group}, {"layers", layers}, {"states", model.state_groups.contains(group)}});
    }
    models.push_back({{"fingerprint", FullFingerprint(model.fingerprint)},
                      {"kv_heads", model.kv_heads},
                      {"head_dim", model.head_dim},
                      {"dtype", KvDtypeName(model.dtype)},
                      {"layer_groups", std::move(groups)}});
  }
  return models;
}

void KvTotals::Add(const kv_store::CatalogBlock& block) {
  ++blocks;
  records += static_cast<int64_t>(block.records.size());
  bytes += block.bytes();
}

void KvTotals::Add(const kv_store::Catalog& catalog, const kv_store::Garbage& garbage) {
  if (garbage.whole) ++blocks;
  records += static_cast<int64_t>(garbage.records.size());
  for (const size_t record : garbage.records) {
    bytes += catalog.blocks()[garbage.block].records[record].bytes;
  }
}

KvTotals TotalsOf(const kv_store::Catalog& catalog) {
  KvTotals totals;
  for (const kv_store::CatalogBlock& block : catalog.blocks()) totals.Add(block);
  return totals;
}

ordered_json TotalsJson(const KvTotals& totals) {
  return {{"blocks", totals.blocks}, {"records", totals.records}, {"bytes", totals.bytes}};
}

absl::StatusOr<kv_store::Catalog> ReadCatalog(KvAccess& access, bool reads_all) {
  ProgressDisplay display;
  TANDEM_ASSIGN_OR_RETURN(
      kv_store::Catalog catalog,
      kv_store::Catalog::Read(access.tier(), access.names(),
                              {.reads_all = reads_all, .progress = display.callback()}));
  TANDEM_RETURN_IF_ERROR(access.CheckAlive());
  return catalog;
}

}  // namespace tandem::launcher
