#include "parallel/placement/world_check.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>

namespace tandem::parallel {
namespace {

constexpr size_t kMostBytes = 1 << 20;  // of one rank's facts
constexpr size_t kMostRanksNamed = 8;   // in a message

void AppendText(std::vector<std::byte>& bytes, std::string_view text) {
  const auto size = static_cast<uint32_t>(text.size());
  const auto raw = std::as_bytes(std::span(&size, 1));
  bytes.insert(bytes.end(), raw.begin(), raw.end());
  const auto content = std::as_bytes(std::span(text.data(), text.size()));
  bytes.insert(bytes.end(), content.begin(), content.end());
}

/// Takes a text off the front of `bytes`; nothing where they are cut short.
std::optional<std::string> TakeText(std::span<const std::byte>& bytes) {
  uint32_t size = 0;
  if (bytes.size() < sizeof(size)) return std::nullopt;
  std::memcpy(&size, bytes.data(), sizeof(size));
  bytes = bytes.subspan(sizeof(size));
  if (bytes.size() < size) return std::nullopt;
  std::string text(reinterpret_cast<const char*>(bytes.data()), size);
  bytes = bytes.subspan(size);
  return text;
}

std::vector<std::byte> Encode(std::span<const WorldFact> facts) {
  std::vector<std::byte> bytes;
  for (const WorldFact& fact : facts) {
    AppendText(bytes, fact.name);
    AppendText(bytes, fact.value);
  }
  return bytes;
}

std::optional<std::vector<WorldFact>> Decode(std::span<const std::byte> bytes) {
  std::vector<WorldFact> facts;
  while (!bytes.empty()) {
    std::optional<std::string> name = TakeText(bytes);
    if (!name.has_value()) return std::nullopt;
    std::optional<std::string> value = TakeText(bytes);
    if (!value.has_value()) return std::nullopt;
    facts.push_back({*std::move(name), *std::move(value)});
  }
  return facts;
}

/// Everyone's facts. [size()]
absl::StatusOr<std::vector<std::vector<WorldFact>>> GatherFacts(Communicator& world,
                                                                std::span<const WorldFact> facts) {
  const std::vector<std::byte> mine = Encode(facts);
  const auto ranks = static_cast<size_t>(world.size());
  const uint64_t size = mine.size();
  std::vector<uint64_t> sizes(ranks);
  TANDEM_RETURN_IF_ERROR(world.AllGather(std::as_bytes(std::span(&size, 1)),
                                         std::as_writable_bytes(std::span(sizes)), {}));
  const uint64_t largest = *std::max_element(sizes.begin(), sizes.end());
  if (largest > kMostBytes) {
    return InvalidArgument("the facts that ranks compare take {} bytes on rank {}, at most {}",
                           largest, std::max_element(sizes.begin(), sizes.end()) - sizes.begin(),
                           kMostBytes);
  }
  std::vector<std::byte> padded = mine;
  padded.resize(largest);
  std::vector<std::byte> all(ranks * largest);
  TANDEM_RETURN_IF_ERROR(world.AllGather(padded, all, {}));
  std::vector<std::vector<WorldFact>> gathered;
  for (size_t r = 0; r < ranks; ++r) {
    std::optional<std::vector<WorldFact>> decoded =
        Decode(std::span(all).subspan(r * largest, sizes[r]));
    if (!decoded.has_value()) {
      return FailedPrecondition("{} sent facts that cannot be read: is it another program?",
                                RankOnHost(world, static_cast<int>(r)));
    }
    gathered.push_back(*std::move(decoded));
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
