#include "parallel/placement/world_check.h"

#include <algorithm>
#include <map>

#include "parallel/communicators/gather_messages.h"

namespace tandem::parallel {

template <typename Archive>
void Fields(Archive& archive, WorldFact& fact) {
  constexpr size_t kLongest = 1 << 20;
  archive(core::AtMost(fact.name, kLongest, "bytes of a name"),
          core::AtMost(fact.value, kLongest, "bytes of a value"));
}

namespace {

constexpr size_t kMostRanksNamed = 8;  // in a message

/// Everyone's facts. [size()]
absl::StatusOr<std::vector<std::vector<WorldFact>>> GatherFacts(Communicator& world,
                                                                std::span<const WorldFact> facts) {
  core::WireWriter writer;
  for (const WorldFact& fact : facts) writer(fact);
  TANDEM_ASSIGN_OR_RETURN(const auto all, GatherBytes(world, writer.bytes()));
  std::vector<std::vector<WorldFact>> gathered(all.size());
  for (size_t r = 0; r < all.size(); ++r) {
    core::WireReader reader("facts", all[r]);
    while (reader.ok() && reader.left() > 0) reader(gathered[r].emplace_back());
    if (!reader.ok()) {
      return FailedPrecondition("{} sent facts that cannot be read: is it another program?",
                                RankOnHost(world, static_cast<int>(r)));
    }
  }
  return gathered;
}

std::string ValueOf(const std::vector<WorldFact>& facts, const std::string& name) {
  const auto fact = std::find_if(facts.begin(), facts.end(),
                                 [&](const WorldFact& each) { return each.name == name; });
  return fact == facts.end() ? "(not told)" : fact->value;
}

/// "rank 1 on host a, rank 3 on host b".
std::string RanksText(const Communicator& world, const std::vector<int>& ranks) {
  std::string text;
  for (size_t i = 0; i < std::min(ranks.size(), kMostRanksNamed); ++i) {
    text += (i == 0 ? "" : ", ") + RankOnHost(world, ranks[i]);
  }
  if (ranks.size() > kMostRanksNamed) {
    text += fmt::format(" and {} more", ranks.size() - kMostRanksNamed);
  }
  return text;
}

/// What is said of one fact: nothing if all agree.
std::string DifferenceText(const Communicator& world, const std::string& name,
                           const std::vector<std::vector<WorldFact>>& gathered) {
  std::map<std::string, std::vector<int>> holders;  // value -> ranks
  for (size_t r = 0; r < gathered.size(); ++r) {
    holders[ValueOf(gathered[r], name)].push_back(static_cast<int>(r));
  }
  if (holders.size() == 1) return "";
  // What most have is what is expected; of equals the value of the lowest rank.
  const auto expected =
      std::max_element(holders.begin(), holders.end(), [](const auto& a, const auto& b) {
        if (a.second.size() != b.second.size()) return a.second.size() < b.second.size();
        return a.second.front() > b.second.front();
      });
  std::string text;
  for (const auto& [value, ranks] : holders) {
    if (value == expected->first) continue;
    text += fmt::format("{}{} has {} '{}'", text.empty() ? "" : "; ", RanksText(world, ranks), name,
                        value);
  }
  return fmt::format("{}; expected '{}' as on {}", text, expected->first,
                     RanksText(world, expected->second));
}

}  // namespace

std::string HexText(uint64_t number) { return fmt::format("{:016x}", number); }

absl::Status CheckWorld(Communicator& world, std::span<const WorldFact> facts) {
  TANDEM_ASSIGN_OR_RETURN(const auto gathered, GatherFacts(world, facts));
  std::vector<std::string> names;  // of all ranks, in the order of the first that tells them
  for (const std::vector<WorldFact>& each : gathered) {
    for (const WorldFact& fact : each) {
      if (std::find(names.begin(), names.end(), fact.name) == names.end()) {
        names.push_back(fact.name);
      }
    }
  }
  std::string differences;
  for (const std::string& name : names) {
    const std::string text = DifferenceText(world, name, gathered);
    if (!text.empty()) differences += (differences.empty() ? "" : ". ") + text;
  }
  if (differences.empty()) return absl::OkStatus();
  return FailedPrecondition(
      "ranks differ: {}. Start every rank with the same program, model file and options",
      differences);
}

std::vector<WorldFact> FactsOf(const EngineIdentity& identity) {
  std::vector<WorldFact> facts = {{"program version", identity.program_version},
                                  {"numerics version", identity.numerics_version},
                                  {"model fingerprint", HexText(identity.model_fingerprint)},
                                  {"shard plan", HexText(identity.plan_hash)}};
  facts.insert(facts.end(), identity.options.begin(), identity.options.end());
  return facts;
}

}  // namespace tandem::parallel
