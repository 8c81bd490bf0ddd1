#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "core/base/counted.h"
#include "core/system/standard_output.h"
#include "fmt/ranges.h"
#include "kv_store/base/hex.h"
#include "kv_store/catalog/catalog_garbage.h"
#include "launcher/commands/commands.h"
#include "launcher/job/progress_display.h"
#include "launcher/kv/kv_text.h"

/// `tandem kv verify` and `tandem kv gc`.
namespace tandem::launcher {
namespace {

using kv_store::Catalog;
using kv_store::CatalogBlock;
using kv_store::CatalogRecord;
using kv_store::Garbage;
using kv_store::GarbageReason;
using kv_store::RecordHealth;
using nlohmann::ordered_json;

constexpr size_t kShownProblems = 20;
constexpr size_t kDroppedAtOnce = 4096;
// The KV heads of a block come from several ranks, one after the other.
constexpr double kSettleSeconds = 60;

struct Problem {
  std::string where;
  std::string what;
};

struct Findings {
  int64_t good = 0;
  int64_t damaged = 0;
  int64_t other_version = 0;
  int64_t gone = 0;
  int64_t incomplete_blocks = 0;  // KV heads are missing
  int64_t orphaned_blocks = 0;    // what they stand on is not there whole
  std::vector<Problem> problems;
};

std::string PlaceOf(const Catalog& catalog, const CatalogBlock& block,
                    const CatalogRecord& record) {
  const std::string hash = kv_store::Hex(std::span(block.stored).first(6));
  if (!record.model) return fmt::format("block {}", hash);
  return fmt::format("block {}, KV head {}, layer group {}, model {}", hash, record.kv_head,
                     record.group, ShortFingerprint(catalog.models()[*record.model].fingerprint));
}

Findings FindingsOf(const Catalog& catalog) {
  Findings findings;
  for (const CatalogBlock& block : catalog.blocks()) {
    for (const CatalogRecord& record : block.records) {
      switch (record.health) {
        case RecordHealth::kUnread:
        case RecordHealth::kGone:
          ++findings.gone;
          break;
        case RecordHealth::kGood:
          ++findings.good;
          break;
        case RecordHealth::kDamaged:
          ++findings.damaged;
          break;
        case RecordHealth::kOtherVersion:
          ++findings.other_version;
          break;
      }
      if (!record.problem.empty()) {
        findings.problems.push_back({PlaceOf(catalog, block, record), record.problem});
      }
    }
  }
  for (const Garbage& garbage : kv_store::FindGarbage(catalog, {})) {
    if (garbage.reason == GarbageReason::kIncomplete) ++findings.incomplete_blocks;
    if (garbage.reason == GarbageReason::kOrphaned) ++findings.orphaned_blocks;
  }
  return findings;
}

void PrintFindings(const Catalog& catalog, const Findings& findings) {
  const KvTotals totals = TotalsOf(catalog);
  PrintOutput("{} of {}, {}: {} good, {} damaged, {} of another version{}\n",
              Counted(static_cast<int64_t>(totals.records), "record"),
              Counted(static_cast<int64_t>(totals.blocks), "block"), SizeText(totals.bytes),
              findings.good, findings.damaged, findings.other_version,
              findings.gone > 0 ? fmt::format(", {} went meanwhile", findings.gone) : "");
  if (findings.incomplete_blocks + findings.orphaned_blocks > 0) {
    PrintOutput(
        "of no use on this host: {} incomplete blocks, {} behind what is missing or damaged\n",
        findings.incomplete_blocks, findings.orphaned_blocks);
  }
  for (size_t i = 0; i < findings.problems.size() && i < kShownProblems; ++i) {
    PrintOutput("  {}: {}\n", findings.problems[i].where, findings.problems[i].what);
  }
  if (findings.problems.size() > kShownProblems) {
    PrintOutput("  and {} more; --json lists all\n", findings.problems.size() - kShownProblems);
  }
}

uint64_t MicrosecondsAgo(double seconds) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const double then = std::chrono::duration<double, std::micro>(now).count() - seconds * 1e6;
  return then > 0 ? static_cast<uint64_t>(then) : 0;
}

struct Collected {
  std::map<GarbageReason, KvTotals> by_reason;
  KvTotals all;
};

Collected SumOf(const Catalog& catalog, const std::vector<Garbage>& garbage) {
  Collected collected;
  for (const Garbage& one : garbage) {
    collected.by_reason[one.reason].Add(catalog, one);
    collected.all.Add(catalog, one);
  }
  return collected;
}

absl::Status DropAll(KvAccess& access, const Catalog& catalog,
                     const std::vector<Garbage>& garbage) {
  std::vector<kv_store::RecordKey> keys;
  for (const Garbage& one : garbage) {
    for (const size_t record : one.records) {
      keys.push_back(catalog.blocks()[one.block].records[record].key);
    }
  }
  ProgressDisplay display;
  for (size_t first = 0; first < keys.size(); first += kDroppedAtOnce) {
    const size_t count = std::min(keys.size() - first, kDroppedAtOnce);
    TANDEM_RETURN_IF_ERROR(access.tier().Drop(std::span(keys).subspan(first, count)));
    display.Show(static_cast<double>(first + count) / static_cast<double>(keys.size()),
                 "removing KV");
  }
  return access.tier().Flush();
}

}  // namespace

absl::Status KvVerify(const KvOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(const auto access,
                          KvAccess::Open(options.state, KvAccess::Purpose::kLook));
  TANDEM_ASSIGN_OR_RETURN(const Catalog catalog, ReadCatalog(*access, /*reads_all=*/true));
  const Findings findings = FindingsOf(catalog);
  if (options.json) {
    ordered_json problems = ordered_json::array();
    for (const Problem& problem : findings.problems) {
      problems.push_back({{"where", problem.where}, {"what", problem.what}});
    }
    const KvTotals totals = TotalsOf(catalog);
    PrintJson({{"records", totals.records},
               {"blocks", totals.blocks},
               {"bytes", totals.bytes},
               {"good", findings.good},
               {"damaged", findings.damaged},
               {"other_version", findings.other_version},
               {"gone", findings.gone},
               {"incomplete_blocks", findings.incomplete_blocks},
               {"orphaned_blocks", findings.orphaned_blocks},
               {"problems", std::move(problems)}});
  } else {
    PrintFindings(catalog, findings);
  }
  if (findings.damaged == 0) return absl::OkStatus();
  return absl::DataLossError(fmt::format(
      "{} of {} {} damaged and never used; tandem kv gc --state {} removes what is",
      findings.damaged, Counted(static_cast<int64_t>(TotalsOf(catalog).records), "KV record"),
      findings.damaged == 1 ? "is" : "are", options.state.directory));
}

absl::Status KvCollect(const KvOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(
      const auto access, KvAccess::Open(options.state, options.dry_run ? KvAccess::Purpose::kLook
                                                                       : KvAccess::Purpose::kMend));
  TANDEM_ASSIGN_OR_RETURN(const Catalog catalog, ReadCatalog(*access, /*reads_all=*/true));
  kv_store::GarbageRules rules;
  rules.useless = options.this_host_alone || access->other_hosts().empty();
  if (access->shared()) rules.settled_before = MicrosecondsAgo(kSettleSeconds);
  if (options.older_than) rules.unused_since = MicrosecondsAgo(*options.older_than);
  rules.most_bytes = options.max_bytes;
  const std::vector<Garbage> garbage = kv_store::FindGarbage(catalog, rules);
  const Collected collected = SumOf(catalog, garbage);
  if (!options.dry_run && !garbage.empty()) {
    TANDEM_RETURN_IF_ERROR(DropAll(*access, catalog, garbage));
  }
  const KvTotals found = TotalsOf(catalog);
  const KvTotals left = {.blocks = found.blocks - collected.all.blocks,
                         .records = found.records - collected.all.records,
                         .bytes = found.bytes - collected.all.bytes};
  if (options.json) {
    ordered_json reasons = ordered_json::object();
    for (const auto& [reason, sum] : collected.by_reason) {
      reasons[std::string(kv_store::GarbageReasonName(reason))] = TotalsJson(sum);
    }
    PrintJson({{"dry_run", options.dry_run},
               {"removed", TotalsJson(collected.all)},
               {"reasons", std::move(reasons)},
               {"left", TotalsJson(left)},
               {"began_anew", access->began_anew().empty() ? ordered_json(nullptr)
                                                           : ordered_json(access->began_anew())}});
    return absl::OkStatus();
  }
  if (!access->began_anew().empty()) {
    PrintOutput("the database on disk was damaged as a whole and begun anew: {}\n",
                access->began_anew());
  }
  for (const auto& [reason, sum] : collected.by_reason) {
    PrintOutput("  {:<10}  {} of {}, {}\n", kv_store::GarbageReasonName(reason),
                Counted(static_cast<int64_t>(sum.records), "record"),
                Counted(static_cast<int64_t>(sum.blocks), "block"), SizeText(sum.bytes));
  }
  PrintOutput("{} {} of {}, {}; {} stay\n", options.dry_run ? "would remove" : "removed",
              Counted(static_cast<int64_t>(collected.all.records), "record"),
              Counted(static_cast<int64_t>(collected.all.blocks), "block"),
              SizeText(collected.all.bytes), SizeText(left.bytes));
  if (!rules.useless) {
    PrintOutput(
        "what is incomplete here was left, since {} may have the rest; --this-host-alone "
        "removes it\n",
        fmt::join(access->other_hosts(), ", "));
  }
  return absl::OkStatus();
}

}  // namespace tandem::launcher
