#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/base/counted.h"
#include "core/system/standard_output.h"
#include "fmt/ranges.h"
#include "frontend/client/terminal_text.h"
#include "launcher/commands/commands.h"
#include "launcher/kv/kv_text.h"
#include "launcher/options/model_choices.h"

/// `tandem kv ls` and `tandem kv show`.
namespace tandem::launcher {
namespace {

using kv_store::Catalog;
using kv_store::CatalogBlock;
using kv_store::CatalogRecord;
using kv_store::RecordHealth;
using nlohmann::ordered_json;

/// Rows of cells, each column as wide as its widest.
std::string Table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += i + 1 < row.size() ? fmt::format("{:<{}}  ", row[i], widths[i]) : row[i];
    }
    text += line + "\n";
  }
  return text;
}

/// What a user named, on one line, without what a terminal would obey.
std::string Shown(std::string_view name) {
  std::string shown = frontend::TerminalText().Clean(name);
  std::replace_if(
      shown.begin(), shown.end(), [](char c) { return c == '\n' || c == '\t'; }, ' ');
  return shown;
}

std::string ConversationsText(const KvPrefix& prefix) {
  if (prefix.conversations.empty()) return "-";
  std::vector<std::string> shown;
  for (const std::string& name : prefix.conversations) shown.push_back(Shown(name));
  return fmt::format("{}", fmt::join(shown, ", "));
}

/// What there is, without reading every record.
struct ListedKv {
  std::unique_ptr<KvAccess> access;
  Catalog catalog;
  std::vector<KvPrefix> prefixes;
  std::map<uint64_t, std::string> tenants;
};

absl::StatusOr<ListedKv> ReadKv(const StateOptions& state) {
  TANDEM_ASSIGN_OR_RETURN(auto access, KvAccess::Open(state, KvAccess::Purpose::kLook));
  TANDEM_ASSIGN_OR_RETURN(Catalog catalog, ReadCatalog(*access, /*reads_all=*/false));
  const NamedConversations& conversations = access->conversations().conversations;
  auto prefixes = FindPrefixes(catalog, access->names(), conversations);
  return ListedKv{.access = std::move(access),
                  .catalog = std::move(catalog),
                  .prefixes = std::move(prefixes),
                  .tenants = TenantNames(conversations)};
}

void PrintList(const ListedKv& kv) {
  std::vector<std::vector<std::string>> rows;
  rows.push_back({"PREFIX", "MODEL", "TENANT", "CONVERSATION", "TOKENS", "BLOCKS", "RECORDS",
                  "SIZE", "TIERS", "LAST USE", "STATE"});
  for (const KvPrefix& prefix : kv.prefixes) {
    rows.push_back({prefix.id, ShortFingerprint(kv.catalog.models()[prefix.model].fingerprint),
                    Shown(TenantText(kv.tenants, prefix.tenant)), ConversationsText(prefix),
                    TokensText(prefix), fmt::format("{}", prefix.blocks.size()),
                    fmt::format("{}", prefix.records), SizeText(prefix.bytes),
                    TiersText(prefix.tiers), TimeText(prefix.last_use), StateText(prefix)});
  }
  if (!kv.prefixes.empty()) WriteOutput(Table(rows));
  const KvTotals totals = TotalsOf(kv.catalog);
  PrintOutput("prefixes: {}; {}, {}, {} in all, what several begin with counted once\n",
              kv.prefixes.size(), Counted(static_cast<int64_t>(totals.blocks), "block"),
              Counted(static_cast<int64_t>(totals.records), "record"), SizeText(totals.bytes));
}

absl::StatusOr<const KvPrefix*> Choose(const KvOptions& options, const ListedKv& kv) {
  std::vector<const KvPrefix*> chosen;
  for (const KvPrefix& prefix : kv.prefixes) {
    if (options.conversation.empty()) {
      if (prefix.id.starts_with(options.prefix)) chosen.push_back(&prefix);
      continue;
    }
    const auto name = prefix.tenant ? kv.tenants.find(*prefix.tenant) : kv.tenants.end();
    const bool same = name != kv.tenants.end() && name->second == options.tenant;
    if (same && std::find(prefix.conversations.begin(), prefix.conversations.end(),
                          options.conversation) != prefix.conversations.end()) {
      chosen.push_back(&prefix);
    }
  }
  if (chosen.size() == 1) return chosen.front();
  const std::string what = options.conversation.empty()
                               ? fmt::format("a prefix that begins with {}", options.prefix)
                               : fmt::format("a conversation \"{}\" of tenant \"{}\"",
                                             options.conversation, options.tenant);
  if (chosen.empty()) {
    return NotFound("--state {}: there is no KV of {}; tandem kv ls tells what there is",
                    options.state.directory, what);
  }
  std::vector<std::string> ids;
  ids.reserve(chosen.size());
  for (const KvPrefix* prefix : chosen) ids.push_back(prefix->id);
  return InvalidArgument("{} is not one prefix, but {} (of several models, maybe): name one of {}",
                         what, chosen.size(), fmt::join(ids, ", "));
}

std::string HealthText(RecordHealth health) {
  switch (health) {
    case RecordHealth::kUnread:
      return "there";
    case RecordHealth::kGood:
      return "good";
    case RecordHealth::kDamaged:
      return "damaged";
    case RecordHealth::kOtherVersion:
      return "of another version";
    case RecordHealth::kGone:
      return "gone";
  }
  return "there";
}

std::string BlockState(const Catalog& catalog, size_t block, size_t model) {
  for (const CatalogRecord& record : catalog.blocks()[block].records) {
    if (record.model == model && record.health == RecordHealth::kDamaged) return "damaged";
  }
  std::vector<std::string> missing;
  for (const auto& [head, group] : catalog.Missing(block, model)) {
    missing.push_back(fmt::format("KV head {} of layer group {}", head, group));
  }
  if (!missing.empty()) return fmt::format("missing: {}", fmt::join(missing, ", "));
  if (catalog.HasWholeState(block, model)) {
    return catalog.HasWholePages(block, model) ? "whole, with a state" : "a state";
  }
  if (catalog.IsUsable(block, model)) return "whole";
  if (catalog.IsReachable(block, model)) return "whole, without the state to go on from here";
  return catalog.IsAnchored(block) ? "whole, but a block before it is not"
                                   : "whole, but blocks before it are missing";
}

ordered_json BlockJson(const Catalog& catalog, const KvPrefix& prefix, size_t chain_index) {
  const size_t index = prefix.chain[chain_index];
  const size_t model = prefix.model;
  const CatalogBlock& block = catalog.blocks()[index];
  ordered_json records = ordered_json::array();
  for (const CatalogRecord& record : block.records) {
    if (record.model != model) continue;
    records.push_back({{"kv_head", record.kv_head},
                       {"layer_group", record.group},
                       {"bytes", record.bytes},
                       {"tiers", TiersText(record.tiers)},
                       {"state", HealthText(record.health)}});
    if (!record.problem.empty()) records.back()["problem"] = record.problem;
  }
  ordered_json missing = ordered_json::array();
  for (const auto& [head, group] : catalog.Missing(index, model)) {
    missing.push_back({{"kv_head", head}, {"layer_group", group}});
  }
  return {{"first_token", FirstTokenJson(prefix, chain_index)},
          {"tokens", catalog.Tokens(index, model)},
          {"bytes", block.bytes()},
          {"last_use", TimeText(block.last_use)},
          {"usable", catalog.IsUsable(index, model)},
          {"state", BlockState(catalog, index, model)},
          {"missing", std::move(missing)},
          {"records", std::move(records)}};
}

void PrintPrefix(const ListedKv& kv, const KvPrefix& prefix) {
  const Catalog& catalog = kv.catalog;
  const kv_store::CatalogModel& model = catalog.models()[prefix.model];
  PrintOutput("prefix        {}\nmodel         {} ({} seen, head_dim {}, {})\n", prefix.id,
              FullFingerprint(model.fingerprint),
              Counted(static_cast<int64_t>(model.kv_heads.size()), "KV head"), model.head_dim,
              KvDtypeName(model.dtype));
  for (const auto& [group, layers] : model.layers) {
    PrintOutput("layer group {} {}{}\n", group, Counted(layers, "layer"),
                model.state_groups.contains(group)
                    ? fmt::format(", their states behind segments of {}", model.segment)
                    : "");
  }
  PrintOutput(
      "tenant        {}\nconversations {}\ntokens        {}, of use {}\nsize          {} in {} "
      "of {}, {}\nlast use      {}\nstate         {}\n\n",
      Shown(TenantText(kv.tenants, prefix.tenant)), ConversationsText(prefix), TokensText(prefix),
      prefix.usable_tokens, SizeText(prefix.bytes),
      Counted(static_cast<int64_t>(prefix.records), "record"),
      Counted(static_cast<int64_t>(prefix.blocks.size()), "block"), TiersText(prefix.tiers),
      TimeText(prefix.last_use), StateText(prefix));
  std::vector<std::vector<std::string>> rows = {
      {"BLOCK", "TOKENS", "RECORDS", "SIZE", "TIERS", "LAST USE", "STATE"}};
  const char* from = prefix.positions_known ? "" : "?+";
  for (size_t i = 0; i < prefix.chain.size(); ++i) {
    const CatalogBlock& block = catalog.blocks()[prefix.chain[i]];
    const int64_t first = prefix.first_tokens[i];
    const int64_t tokens = catalog.Tokens(prefix.chain[i], prefix.model);
    uint8_t tiers = 0;
    for (const CatalogRecord& record : block.records) {
      tiers = static_cast<uint8_t>(tiers | record.tiers);
    }
    rows.push_back({fmt::format("{}{}", from, first / core::kPageTokens),
                    fmt::format("{}{}-{}", from, first, first + tokens - 1),
                    fmt::format("{}", block.records.size()), SizeText(block.bytes()),
                    TiersText(tiers), TimeText(block.last_use),
                    BlockState(catalog, prefix.chain[i], prefix.model)});
  }
  WriteOutput(Table(rows));
}

}  // namespace

absl::Status KvList(const KvOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(const ListedKv kv, ReadKv(options.state));
  if (!options.json) {
    PrintList(kv);
    return absl::OkStatus();
  }
  ordered_json list = ordered_json::array();
  for (const KvPrefix& prefix : kv.prefixes) {
    list.push_back(PrefixJson(prefix, kv.catalog, kv.tenants));
  }
  PrintJson({{"prefixes", std::move(list)},
             {"models", ModelsJson(kv.catalog)},
             {"total", TotalsJson(TotalsOf(kv.catalog))},
             {"other_hosts", kv.access->other_hosts()}});
  return absl::OkStatus();
}

absl::Status KvShow(const KvOptions& options) {
  if (options.prefix.empty() == options.conversation.empty()) {
    return InvalidArgument("name either a PREFIX, as tandem kv ls tells it, or a --conversation");
  }
  TANDEM_ASSIGN_OR_RETURN(const ListedKv kv, ReadKv(options.state));
  TANDEM_ASSIGN_OR_RETURN(const KvPrefix* prefix, Choose(options, kv));
  if (!options.json) {
    PrintPrefix(kv, *prefix);
    return absl::OkStatus();
  }
  ordered_json document = PrefixJson(*prefix, kv.catalog, kv.tenants);
  ordered_json blocks = ordered_json::array();
  for (size_t i = 0; i < prefix->chain.size(); ++i) {
    blocks.push_back(BlockJson(kv.catalog, *prefix, i));
  }
  document["chain"] = std::move(blocks);
  PrintJson(document);
  return absl::OkStatus();
}

}  // namespace tandem::launcher
