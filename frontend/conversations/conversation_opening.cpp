#include <fmt/ranges.h>
#include <rocksdb/db.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "core/base/counted.h"
#include "frontend/conversations/conversation_store.h"
#include "kv_store/base/files.h"
#include "kv_store/journal/database_image.h"

/// How a store is opened: whatever is damaged, and so that nothing is missing without a word.
namespace tandem::frontend {

using kv_store::PlacedRecord;
using kv_store::ReadDatabase;

namespace {

/// Those that were known to be damaged before.
std::set<WitnessHash> DamagedIn(const WitnessReport& report) {
  std::set<WitnessHash> damaged;
  for (const auto& [hash, slot] : report.slots) {
    if (slot.kind == WitnessSlot::Kind::kDamaged) damaged.insert(hash);
  }
  return damaged;
}

/// Puts a damaged witness aside; says where it is.
std::string KeepWitness(const std::string& path) {
  const std::string aside = kv_store::FreeName(path, "damaged");
  const absl::Status status = kv_store::Rename(path, aside);
  if (status.ok()) return ", and it is kept in " + aside;
  spdlog::error("{}", Message(status));
  return "";
}

/// How many conversations have not all the records that the witness knows of.
int64_t Lacking(const std::vector<PlacedRecord>& records, const WitnessReport& report) {
  std::map<WitnessHash, uint64_t> turns;
  for (const PlacedRecord& record : records) {
    const auto number = ConversationPlaces::NumberOfPlace(record.place);
    if (number.value_or(0) > 0) ++turns[ConversationPlaces::HashOfPrefix(record.place)];
  }
  return std::count_if(report.slots.begin(), report.slots.end(), [&](const auto& entry) {
    return entry.second.kind == WitnessSlot::Kind::kTurns &&
           turns[entry.first] < entry.second.turns;
  });
}

/// Where the database lacks what its witness knows of, its list of files may have lost its end,
/// which RocksDB takes for an older list: then files count that are not in it.
absl::StatusOr<ReadDatabase> ReadMost(const std::string& folder) {
  TANDEM_ASSIGN_OR_RETURN(ReadDatabase read, kv_store::ReadWhole(folder));
  const auto report = ConversationWitness::Read(ConversationStore::WitnessPath(folder));
  const int64_t lacking = report.ok() ? Lacking(read.records, *report) : 0;
  if (lacking == 0 || !kv_store::HasImage(folder)) return read;
  const std::string moved = std::move(read.moved);
  read.db.reset();
  TANDEM_ASSIGN_OR_RETURN(read, kv_store::ReadWhole(folder, /*trusted=*/false));
  if (Lacking(read.records, *report) >= lacking) {
    read.db.reset();
    TANDEM_ASSIGN_OR_RETURN(read, kv_store::ReadWhole(folder));
  }
  read.moved = moved;
  return read;
}

/// A store while it is being opened.
struct Opening {
  const ConversationStore::Options& options;
  ReadDatabase& read;
  const std::string witness_path = ConversationStore::WitnessPath(options.folder);
  WitnessReport report = {};
  std::vector<std::string> damage = {};  // of the database
  std::optional<ConversationPlaces> places = std::nullopt;

  bool empty() const { return read.records.empty() && read.gaps == 0; }
};

/// Sets the places if the record says them; kFailedPrecondition as ConversationPlaces::Read.
absl::Status ReadPlaces(std::span<const std::byte> identity, Opening& opening) {
  const auto known = ConversationPlaces::Read(identity, opening.options.box);
  if (known.ok()) opening.places = *known;
  if (!absl::IsFailedPrecondition(known.status())) return absl::OkStatus();
  return FailedPrecondition("{}: {}", opening.options.folder, Message(known.status()));
}

/// Finds out how the records are to be read, from the database or its witness; begins a new store
/// where neither tells.
absl::Status Identify(Opening& opening) {
  const std::string& folder = opening.options.folder;
  WitnessReport& report = opening.report;
  const std::string* const identity = BytesAt(opening.read.records, ConversationPlaces::kIdentity);
  if (identity != nullptr) {
    TANDEM_RETURN_IF_ERROR(ReadPlaces(std::as_bytes(std::span(*identity)), opening));
  }
  if (opening.places) {
    if (report.identity.empty() || report.identity == opening.places->identity()) {
      return absl::OkStatus();
    }
    const std::string aside = kv_store::FreeName(opening.witness_path, "aside");
    TANDEM_RETURN_IF_ERROR(kv_store::Rename(opening.witness_path, aside));
    spdlog::warn("{} is of other conversations; it is kept in {}", opening.witness_path, aside);
    report = WitnessReport{};
    return absl::OkStatus();
  }
  if (!report.identity.empty()) TANDEM_RETURN_IF_ERROR(ReadPlaces(report.identity, opening));
  if (!opening.empty() || !report.slots.empty()) {
    opening.damage.emplace_back(opening.empty() ? "there is nothing in it"
                                                : "it does not say how to read it");
  }
  if (!opening.places) {
    // Its names are hashes that nothing can be compared with any more.
    report.slots.clear();
    report.erased.clear();
    report.watched.clear();
    if (!opening.empty()) {
      opening.read.db.reset();
      TANDEM_RETURN_IF_ERROR(kv_store::DiscardFiles(folder));
      TANDEM_ASSIGN_OR_RETURN(opening.read.db, kv_store::OpenDatabase(folder));
      opening.read.records.clear();
    }
    opening.places.emplace(opening.options.box);
  }
  const std::vector<std::byte> record = opening.places->identity();
  rocksdb::WriteOptions synced;
  synced.sync = true;
  const rocksdb::Status put = opening.read.db->Put(
      synced, rocksdb::Slice(ConversationPlaces::kIdentity),
      rocksdb::Slice(reinterpret_cast<const char*>(record.data()), record.size()));
  return kv_store::FromDatabase(put, "writing " + folder);
}

/// What Open has found in the conversations.
struct Losses {
  int64_t damaged = 0;      // conversations, which was not known before
  bool unkept = false;      // there are records of them that are not kept
  bool chained = false;     // there are turns that were written beside a witness
  size_t risen = 0;         // that had been erased
  bool unfinished = false;  // the database is where it was left: that erasure was only begun
};

/// Keeps the files as they were where they are damaged; says what was found.
absl::StatusOr<std::string> TellDamage(Opening& opening, const Losses& losses) {
  std::vector<std::string>& damage = opening.damage;
  const WitnessReport& report = opening.report;
  const auto& [damaged, unkept, chained, risen, unfinished] = losses;
  // A torn end of the log that nobody was told of is no loss.
  const bool lost = damaged > 0 || opening.read.gaps > 0;
  const bool torn =
      opening.read.torn && damage.size() == 1 && report.there && report.damaged == 0 && !lost;
  if (damaged > 0) {
    damage.push_back(Counted(damaged, "conversation lacks", "conversations lack") +
                     " what was said (\"damaged\": go on with accept_damage, or delete)");
  } else if (opening.read.gaps > 0) {
    damage.emplace_back("what was lost of it cannot be told");
  }
  // Files that are whole have nothing that the database has not, but for what is to be destroyed.
  const bool dispensable =
      risen > 0 && opening.read.damage.empty() && opening.read.gaps == 0 && !unkept;
  if (risen > 0 && (!damage.empty() || !unfinished)) {
    damage.push_back(Counted(static_cast<int64_t>(risen),
                             "conversation that had been erased was in it, and is destroyed",
                             "conversations that had been erased were in it, and are destroyed"));
  }
  std::string aside;
  if (damage.empty() || torn || dispensable) {
    TANDEM_RETURN_IF_ERROR(kv_store::DropImage(opening.options.folder));
  } else {
    TANDEM_ASSIGN_OR_RETURN(aside, kv_store::KeepImage(opening.options.folder));
  }
  if (report.damaged > 0) {
    damage.push_back(fmt::format("{}: {} slots are damaged{}", opening.witness_path, report.damaged,
                                 KeepWitness(opening.witness_path)));
  } else if (!report.there && chained) {
    damage.push_back(fmt::format("{} is missing, so what was lost before this start cannot be told",
                                 opening.witness_path));
  }
  if (!opening.read.moved.empty()) damage.push_back(opening.read.moved);
  if (damage.empty()) return "";
  std::string told = fmt::format("{}: {}", opening.options.folder, fmt::join(damage, "; "));
  if (torn && opening.read.moved.empty()) {
    spdlog::warn("{}; no turn that was acknowledged is missing", told);
    return "";
  }
  if (!aside.empty()) {
    told += fmt::format("; the files are kept as they were in {}{}", aside,
                        risen > 0 ? ", and what had been erased with them: remove them soon"
                                  : ": remove them when nothing more is wanted from them");
  }
  spdlog::error("{}", told);
  return told;
}

}  // namespace

absl::StatusOr<ConversationStore::Opened> ConversationStore::Open(const Options& options) {
  const std::string witness = WitnessPath(options.folder);
  TANDEM_ASSIGN_OR_RETURN(const std::string moved,
                          kv_store::MakeWay(witness, kv_store::FileKind::kFile, witness));
  TANDEM_ASSIGN_OR_RETURN(ReadDatabase read, ReadMost(options.folder));
  if (!moved.empty()) {
    spdlog::warn("{}", moved);
    read.moved += (read.moved.empty() ? "" : "; ") + moved;
  }
  auto opened = OpenRead(options, read);
  if (absl::IsFailedPrecondition(opened.status())) {
    // Of another key, say: then it is left as it was.
    read.db.reset();
    const absl::Status restored = kv_store::RestoreImage(options.folder);
    if (!restored.ok()) spdlog::error("{}", Message(restored));
  }
  return opened;
}

absl::StatusOr<ConversationStore::Opened> ConversationStore::OpenRead(const Options& options,
                                                                      ReadDatabase& read) {
  Opening opening{.options = options, .read = read};
  if (!read.damage.empty()) opening.damage.push_back(read.damage);
  WitnessReport& report = opening.report;
  if (auto witness = ConversationWitness::Read(opening.witness_path); witness.ok()) {
    report = *std::move(witness);
  } else {
    opening.damage.push_back(Message(witness.status()));
  }
  TANDEM_RETURN_IF_ERROR(Identify(opening));

  Opened result;
  result.store.reset(new ConversationStore(options, std::move(read.db), *opening.places));
  ConversationStore& store = *result.store;
  FoundConversations& found = result.found;
  const ReaderMutexLock lock(store.db_mutex_);
  TANDEM_RETURN_IF_ERROR(store.ReadPosition());
  const kv_store::JournalPosition position = store.position();
  const uint64_t sequence = position.sequence;
  const WitnessedPlace place = PlaceAmong(report.watched, position);
  store.journal_lost_ = store.journal_is_new_ && report.sequence > 0;
  store.behind_ = report.sequence > sequence || place == WitnessedPlace::kEarlier;
  if (store.behind_) {
    opening.damage.push_back(fmt::format(
        "it is of an earlier time: its last change is {}, and {}{} was written", sequence,
        report.sequence, report.sequence > sequence ? "" : " of a later branch"));
  }
  store.ReadErased(read.records, report);
  const std::set<WitnessHash> known = DamagedIn(report);
  const Risen risen = store.Read(read.records, report, found);
  const auto damaged =
      std::count_if(store.damaged_.begin(), store.damaged_.end(), [&](const auto& entry) {
        return !known.contains(ConversationPlaces::HashOfPrefix(entry.first));
      });
  const Losses losses{.damaged = damaged,
                      .unkept = store.unkept_,
                      .chained = store.chained_,
                      .risen = risen.size(),
                      .unfinished = place == WitnessedPlace::kLast};
  if (read.gaps > 0) {
    found.unreadable.push_back(
        {.prefix = "", .what = fmt::format("{} runs of records of a damaged table", read.gaps)});
  }
  TANDEM_ASSIGN_OR_RETURN(found.damage, TellDamage(opening, losses));
  // What follows a change that the witness does not know may have been said before, and be put
  // back: the changes that come are none of those.
  const bool unknown = place == WitnessedPlace::kUnknown && sequence > 0;
  const bool branch = !store.journal_is_new_ && (store.behind_ || unknown);
  TANDEM_RETURN_IF_ERROR(store.GoOn(risen, found, report, branch));
  return result;
}

absl::Status ConversationStore::GoOn(const Risen& risen, const FoundConversations& found,
                                     const WitnessReport& report, bool branch) {
  {
    const MutexLock lock(commit_mutex_);
    watched_ = report.watched;
    const uint64_t id = position_.branches.back().id;
    const uint64_t sequence = position_.sequence;
    const bool goes_on =
        !watched_.empty() && watched_.back().branch == id && watched_.back().last == sequence;
    if (!goes_on && !branch) watched_.push_back({.branch = id, .first = sequence});
    if (!branch && risen.empty() && unrecorded_.empty()) {
      const absl::Status witnessed = Witness({});
      if (!witnessed.ok()) spdlog::error("{}", Message(witnessed));
      return absl::OkStatus();
    }
  }
  // What others have behind the last change is none of what comes now.
  TANDEM_RETURN_IF_ERROR(Commit(ErasureOf(risen, found), {}, branch));
  if (!risen.empty()) erasing_ = true;
  return absl::OkStatus();
}

std::optional<kv_store::StateId> ConversationStore::WitnessedState(const Options& options) {
  const auto report = ConversationWitness::Read(WitnessPath(options.folder));
  if (!report.ok()) return std::nullopt;
  const auto places = ConversationPlaces::Read(report->identity, options.box);
  return places.ok() ? std::optional(places->state()) : std::nullopt;
}

}  // namespace tandem::frontend
