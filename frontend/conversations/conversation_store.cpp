#include "frontend/conversations/conversation_store.h"

#include <fmt/ranges.h>
#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>
#include <sodium.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <type_traits>

#include "core/base/mutex.h"
#include "core/base/wire.h"
#include "frontend/conversations/conversation_codec.h"
#include "frontend/text/name_number.h"
#include "kv_store/base/files.h"
#include "kv_store/journal/database_image.h"

namespace tandem::frontend {

using kv_store::FromDatabase;
using kv_store::JournalChange;
using kv_store::OpenDatabase;
using kv_store::PlacedRecord;
using kv_store::ReadDatabase;
using kv_store::ReadWhole;

namespace {

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

std::string Text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

uint64_t DrawNumber() {
  uint64_t number = 0;
  randombytes_buf(&number, sizeof(number));
  return number;
}

/// The first place behind all that begin with this.
std::string EndOf(std::string prefix) {
  while (!prefix.empty() && static_cast<uint8_t>(prefix.back()) == 0xFF) prefix.pop_back();
  if (!prefix.empty()) ++prefix.back();
  return prefix;
}

struct ErasureRecord {
  std::string prefix;  // empty: blocks alone
  std::vector<kv_store::BlockHash> blocks;
};

template <typename Archive>
void Fields(Archive& archive, ErasureRecord& erasure) {
  archive(core::AtMost(erasure.prefix, ConversationPlaces::kPrefixBytes, "bytes of a place"),
          core::AtMost(erasure.blocks, kNoLimit, "blocks"));
}

/// The records of a kind. None of the database's files is held afterwards.
absl::Status ReadFrom(rocksdb::DB& db, char kind, std::vector<PlacedRecord>& records) {
  const std::unique_ptr<rocksdb::Iterator> iterator(db.NewIterator({}));
  const std::string first(1, kind);
  for (iterator->Seek(first); iterator->Valid() && iterator->key().starts_with(first);
       iterator->Next()) {
    records.push_back({iterator->key().ToString(), iterator->value().ToString()});
  }
  return FromDatabase(iterator->status(), "reading what is to be destroyed");
}

bool IsPrefix(std::string_view place) {
  return place.size() == ConversationPlaces::kPrefixBytes &&
         place[0] == ConversationPlaces::kConversation;
}

/// Null: there is none.
const std::string* IdentityIn(const std::vector<PlacedRecord>& records) {
  const auto identity = std::find_if(
      records.begin(), records.end(),
      [](const PlacedRecord& record) { return record.place == ConversationPlaces::kIdentity; });
  return identity == records.end() ? nullptr : &identity->bytes;
}

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

bool IsErasure(std::string_view place) {
  return !place.empty() && place[0] == ConversationPlaces::kErasure;
}

}  // namespace

ConversationStore::ConversationStore(Options options, std::unique_ptr<rocksdb::DB> db,
                                     ConversationPlaces places)
    : options_(std::move(options)), places_(places), db_(std::move(db)) {}

ConversationStore::~ConversationStore() = default;

int64_t FoundConversations::damaged() const {
  return static_cast<int64_t>(nameless.size()) +
         std::count_if(conversations.begin(), conversations.end(),
                       [](const auto& one) { return one.second.damaged; });
}

absl::StatusOr<ConversationStore::Opened> ConversationStore::Open(const Options& options) {
  TANDEM_ASSIGN_OR_RETURN(ReadDatabase read, ReadWhole(options.folder));
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
  const auto in_folder = [&](const absl::Status& status) {
    return absl::Status(status.code(), fmt::format("{}: {}", options.folder, Message(status)));
  };
  const std::string witness_path = WitnessPath(options.folder);
  auto report = ConversationWitness::Read(witness_path);
  std::vector<std::string> damage;
  if (!read.damage.empty()) damage.push_back(read.damage);
  if (!report.ok()) {
    damage.push_back(Message(report.status()));
    report = WitnessReport{};
  }
  std::optional<ConversationPlaces> places;
  const std::string* const identity = IdentityIn(read.records);
  if (identity != nullptr) {
    auto known = ConversationPlaces::Read(Bytes(*identity), options.box);
    if (absl::IsFailedPrecondition(known.status())) return in_folder(known.status());
    if (known.ok()) places = *known;
  }
  const bool identified = places.has_value();
  if (!identified && !report->identity.empty()) {
    auto known = ConversationPlaces::Read(report->identity, options.box);
    if (absl::IsFailedPrecondition(known.status())) return in_folder(known.status());
    if (known.ok()) places = *known;
  }
  const bool empty = read.records.empty() && read.gaps == 0;
  if (!identified && !(empty && report->slots.empty())) {
    damage.push_back(empty ? "there is nothing in it" : "it does not say how to read it");
  }
  if (!places) {
    if (!empty) {
      // Its names are hashes that nothing can be compared with any more.
      read.db.reset();
      TANDEM_RETURN_IF_ERROR(kv_store::DiscardFiles(options.folder));
      TANDEM_ASSIGN_OR_RETURN(read.db, OpenDatabase(options.folder));
      read.records.clear();
    }
    places.emplace(options.box);
  }
  if (identified && !report->identity.empty() && report->identity != places->identity()) {
    const std::string aside = kv_store::FreeName(witness_path, "aside");
    TANDEM_RETURN_IF_ERROR(kv_store::Rename(witness_path, aside));
    spdlog::warn("{} is of other conversations; it is kept in {}", witness_path, aside);
    report = WitnessReport{};
  }
  if (!identified) {
    rocksdb::WriteOptions synced;
    synced.sync = true;
    const rocksdb::Slice place(ConversationPlaces::kIdentity);
    const rocksdb::Status put = read.db->Put(synced, place, Text(places->identity()));
    if (!put.ok()) return FromDatabase(put, "writing " + options.folder);
  }

  Opened result;
  result.store.reset(new ConversationStore(options, std::move(read.db), *places));
  ConversationStore& store = *result.store;
  {
    const ReaderMutexLock lock(store.db_mutex_);
    TANDEM_RETURN_IF_ERROR(store.ReadPosition());
    const uint64_t sequence = store.position().sequence;
    store.journal_lost_ = sequence == 0 && report->sequence > 0;
    store.behind_ = report->sequence > sequence;
    if (store.behind_) {
      damage.push_back(
          fmt::format("its last change is {}, and {} were written", sequence, report->sequence));
    }
  }
  // A witness that has lost what came last may not know that a conversation was erased. So it is
  // believed against a database that looks whole only while it has all.
  const bool believed = !damage.empty() || read.gaps > 0 ||
                        (report->damaged == 0 && report->sequence >= store.position().sequence);
  if (!believed) {
    std::erase_if(report->slots, [](const auto& entry) {
      return entry.second.kind != WitnessSlot::Kind::kDamaged;
    });
  }
  const std::set<WitnessHash> known = DamagedIn(*report);
  store.Read(read.records, *report, result.found);
  bool is_new = read.gaps > 0;
  for (const auto& [prefix, state] : store.damaged_) {
    is_new = is_new || !known.contains(ConversationPlaces::HashOfPrefix(prefix));
  }
  if (read.gaps > 0) {
    result.found.unreadable.push_back(
        {.prefix = "", .what = fmt::format("{} runs of records of a damaged table", read.gaps)});
  }
  if (is_new && damage.empty()) damage.emplace_back("turns are missing");
  // A torn end of the log that nobody was told of is no loss.
  const bool torn =
      read.torn && damage.size() == 1 && report->there && report->damaged == 0 && !is_new;
  std::string aside;
  if (damage.empty() || torn) {
    kv_store::DropImage(options.folder);
  } else {
    aside = kv_store::KeepImage(options.folder);
  }
  if (report->damaged > 0) {
    damage.push_back(fmt::format("{}: {} slots are damaged{}", witness_path, report->damaged,
                                 KeepWitness(witness_path)));
  } else if (!report->there && store.chained_) {
    damage.push_back(fmt::format("{} is missing", witness_path));
  }
  const std::string told = fmt::format("{}: {}", options.folder, fmt::join(damage, "; "));
  if (torn) {
    spdlog::warn("{}; no turn that was acknowledged is missing", told);
  } else if (!damage.empty()) {
    result.found.damage =
        aside.empty() ? told : told + "; the files are kept as they were in " + aside;
    spdlog::error("{}", result.found.damage);
  }
  const ReaderMutexLock lock(store.db_mutex_);
  if (store.behind_ && !store.journal_lost_) {
    // What others have behind the last change is none of what comes now.
    TANDEM_RETURN_IF_ERROR(store.Commit({}, {}, /*branch=*/true));
    return result;
  }
  const MutexLock commit_lock(store.commit_mutex_);
  const absl::Status witnessed = store.Witness({});
  if (!witnessed.ok()) spdlog::error("{}", Message(witnessed));
  return result;
}

std::optional<kv_store::StateId> ConversationStore::WitnessedState(const Options& options) {
  const auto report = ConversationWitness::Read(WitnessPath(options.folder));
  if (!report.ok()) return std::nullopt;
  const auto places = ConversationPlaces::Read(report->identity, options.box);
  return places.ok() ? std::optional(places->state()) : std::nullopt;
}

absl::StatusOr<FoundConversations> ConversationStore::Look(const Options& options) {
  TANDEM_ASSIGN_OR_RETURN(ReadDatabase read, kv_store::LookIntoDatabase(options.folder));
  FoundConversations found;
  const std::string* const identity = IdentityIn(read.records);
  if (identity == nullptr) {
    if (read.records.empty() && read.gaps == 0) return found;
    return absl::DataLossError(
        fmt::format("{}: it has no record that says how to read it", options.folder));
  }
  const auto places = ConversationPlaces::Read(Bytes(*identity), options.box);
  if (!places.ok()) {
    return absl::Status(places.status().code(),
                        fmt::format("{}: {}", options.folder, Message(places.status())));
  }
  ConversationStore(options, std::move(read.db), *places).Read(read.records, {}, found);
  return found;
}

void ConversationStore::Read(const std::vector<PlacedRecord>& records, const WitnessReport& report,
                             FoundConversations& found) {
  const ConversationReader reader(places_, options_.box);
  const auto claim_on = [&report](const std::string& prefix) -> const WitnessSlot* {
    const auto slot = report.slots.find(ConversationPlaces::HashOfPrefix(prefix));
    return slot == report.slots.end() || slot->second.kind == WitnessSlot::Kind::kErased
               ? nullptr
               : &slot->second;
  };
  std::set<std::string> there;
  ForEachGroup(records, [&](std::string_view of, std::span<const PlacedRecord> group) {
    const std::string prefix(of);
    if (prefix == ConversationPlaces::kIdentity || prefix == kv_store::kPositionPlace) return;
    if (IsErasure(prefix)) {
      erasing_ = true;
      return;
    }
    ReadConversation read =
        reader.Read(group, IsPrefix(prefix) ? claim_on(prefix) : nullptr, behind_);
    there.insert(prefix);
    Add(prefix, std::move(read), found);
  });
  for (const auto& [hash, slot] : report.slots) {
    const std::string prefix = ConversationPlaces::PrefixOfHash(hash);
    if (slot.kind == WitnessSlot::Kind::kErased || there.contains(prefix)) continue;
    Add(prefix, ConversationReader::Lost(prefix, slot), found);
  }
  conversations_ = static_cast<int64_t>(states_.size());
}

void ConversationStore::Add(const std::string& prefix, ReadConversation read,
                            FoundConversations& found) {
  chained_ = chained_ || read.chained;
  const std::string what = fmt::format("{}: {}", read.described, Message(read.status));
  if (absl::IsFailedPrecondition(read.status) || !IsPrefix(prefix)) {
    spdlog::error("{}: {}; it stays on disk until it is deleted", options_.folder, what);
    found.unreadable.push_back({.prefix = prefix, .what = what});
    return;
  }
  WitnessSlot slot = SlotOf(prefix, read.state);
  if (read.status.ok()) {
    states_[prefix] = read.state;
  } else {
    spdlog::error("{}: {}; its first {} messages are kept", options_.folder, what,
                  read.conversation.messages.size());
    damaged_[prefix] = read.state;
    read.conversation.damaged = true;
    slot.kind = WitnessSlot::Kind::kDamaged;
    if (read.written > read.state.turns) slot.last.reset();
    slot.turns = std::max(read.written, read.state.turns);
  }
  {
    const MutexLock lock(commit_mutex_);
    witnessed_[slot.conversation] = slot;
  }
  if (read.named) {
    found.conversations.emplace_back(std::move(read.name), std::move(read.conversation));
  } else {
    found.nameless[prefix] = std::move(read.conversation);
  }
}

WitnessSlot ConversationStore::SlotOf(const std::string& prefix,
                                      const ConversationState& state) const {
  return {.kind = WitnessSlot::Kind::kTurns,
          .conversation = ConversationPlaces::HashOfPrefix(prefix),
          .instance = state.instance,
          .turns = state.turns,
          .last = places_.Keyed(state.last)};
}

absl::Status ConversationStore::Witness(std::vector<WitnessSlot> slots) {
  constexpr uint64_t kSpareSlots = 16384;
  for (WitnessSlot& slot : slots) {
    slot.sequence = position_.sequence;
    if (slot.kind == WitnessSlot::Kind::kErased) {
      witnessed_.erase(slot.conversation);
    } else {
      witnessed_[slot.conversation] = slot;
    }
  }
  if (slots.empty()) {
    slots.push_back({.kind = WitnessSlot::Kind::kPosition, .sequence = position_.sequence});
  }
  const bool long_enough =
      witness_ != nullptr && witness_->slots() < 4 * witnessed_.size() + kSpareSlots;
  absl::Status status;
  if (long_enough) {
    status = witness_->Append(slots);
  } else {
    std::vector<WitnessSlot> all{
        {.kind = WitnessSlot::Kind::kPosition, .sequence = position_.sequence}};
    for (const auto& [hash, slot] : witnessed_) {
      all.push_back(slot);
      all.back().sequence = position_.sequence;
    }
    auto made = ConversationWitness::Make(WitnessPath(options_.folder), places_.identity(), all);
    status = made.status();
    if (made.ok()) witness_ = *std::move(made);
  }
  // After a part of a slot nothing could be added.
  if (!status.ok()) witness_.reset();
  return status;
}

void ConversationStore::SyncWitness() {
  const MutexLock lock(commit_mutex_);
  if (witness_ == nullptr) return;
  if (const absl::Status status = witness_->Sync(); !status.ok()) {
    spdlog::error("{}", Message(status));
    witness_.reset();
  }
}

std::string ConversationStore::Encrypted(const std::string& tenant, const std::string& place,
                                         std::vector<std::byte> record) const {
  if (options_.box == nullptr) return Text(record);
  return Text(options_.box->Seal(NumberOf(tenant), Bytes(place), record));
}

absl::Status ConversationStore::Write(std::span<const Change> changes) {
  const ReaderMutexLock lock(db_mutex_);
  if (db_ == nullptr) return Unavailable("{} is not open", options_.folder);
  std::vector<JournalChange> batch;
  const auto put = [&batch](std::string place, std::string bytes) {
    batch.push_back(
        {.kind = JournalChange::Kind::kPut, .place = std::move(place), .bytes = std::move(bytes)});
  };
  std::map<std::string, std::optional<ConversationState>> changed;  // nothing: erased
  std::vector<WitnessSlot> erased;
  bool erases = false;
  const auto delete_range = [&batch](const std::string& prefix) {
    batch.push_back(
        {.kind = JournalChange::Kind::kDeleteRange, .place = prefix, .bytes = EndOf(prefix)});
  };
  const auto state_of = [&](const std::string& prefix) -> ConversationState {
    if (const auto found = changed.find(prefix); found != changed.end()) {
      return found->second.value_or(ConversationState{});
    }
    const auto found = states_.find(prefix);
    return found == states_.end() ? ConversationState{} : found->second;
  };
  const auto add_turn = [&](const Turn& turn) {
    const std::string prefix = places_.Prefix(turn.name);
    ConversationState state = state_of(prefix);
    if (state.turns == 0) {
      if (damaged_.contains(prefix) && !changed.contains(prefix)) delete_range(prefix);
      state = {.instance = DrawNumber(), .turns = 0, .last = {}};
    }
    ++state.turns;
    const std::string head_place = ConversationPlaces::Place(prefix, 0);
    const std::string turn_place = ConversationPlaces::Place(prefix, state.turns);
    std::vector<std::byte> record = EncodeTurn(turn_place, state.instance, state.last, turn.delta);
    state.last = HashOfTurn(record);
    const ConversationHead head{turn.name, state.instance, state.turns, state.last};
    put(head_place, Encrypted(turn.name.tenant, head_place, EncodeHead(head_place, head)));
    put(turn_place, Encrypted(turn.name.tenant, turn_place, std::move(record)));
    changed[prefix] = state;
  };
  const auto note_erasure = [&](const ErasureRecord& erasure) {
    // Told apart by a random number; what lies there is found by reading all of them.
    put(ConversationPlaces::Place(std::string(1, ConversationPlaces::kErasure), DrawNumber()),
        Text(core::Encode(erasure)));
    erases = true;
  };
  const auto add_erasure = [&](const Erasure& erasure) {
    const std::string prefix = places_.Prefix(erasure.name);
    delete_range(prefix);
    note_erasure({prefix, erasure.blocks});
    erased.push_back({.kind = WitnessSlot::Kind::kErased,
                      .conversation = ConversationPlaces::HashOfPrefix(prefix)});
    changed[prefix].reset();
  };
  for (const Change& change : changes) {
    std::visit(
        [&](const auto& one) {
          using Kind = std::decay_t<decltype(one)>;
          if constexpr (std::is_same_v<Kind, Turn>) {
            add_turn(one);
          } else if constexpr (std::is_same_v<Kind, Erasure>) {
            add_erasure(one);
          } else {
            note_erasure({"", one.blocks});
          }
        },
        change);
  }
  if (!erased.empty()) {
    // First, so that none is missed later that was erased.
    const MutexLock witness_lock(commit_mutex_);
    TANDEM_RETURN_IF_ERROR(Witness(std::move(erased)));
    TANDEM_RETURN_IF_ERROR(witness_->Sync());
  }
  std::vector<WitnessSlot> slots;
  for (const auto& [prefix, state] : changed) {
    if (state) slots.push_back(SlotOf(prefix, *state));
  }
  TANDEM_RETURN_IF_ERROR(Commit(std::move(batch), std::move(slots)));
  if (erases) erasing_ = true;
  for (auto& [prefix, state] : changed) {
    damaged_.erase(prefix);
    if (state) {
      states_[prefix] = *state;
    } else {
      states_.erase(prefix);
    }
  }
  conversations_ = static_cast<int64_t>(states_.size());
  return absl::OkStatus();
}

absl::Status ConversationStore::Commit(std::vector<JournalChange> changes,
                                       std::vector<WitnessSlot> slots, bool branch) {
  const MutexLock lock(commit_mutex_);
  kv_store::JournalEntry entry{.at = branch ? position_.Branched() : position_.Next(),
                               .changes = std::move(changes)};
  rocksdb::WriteBatch batch;
  kv_store::AddTo(batch, entry);
  rocksdb::WriteOptions options;
  options.sync = true;  // or a loss of power could leave a copy ahead of this
  TANDEM_RETURN_IF_ERROR(
      FromDatabase(db_->Write(options, &batch), "writing to " + options_.folder));
  position_ = entry.at;
  // It is written, so it counts: without its witness it could be lost unnoticed, and no more.
  const absl::Status witnessed = Witness(std::move(slots));
  if (!witnessed.ok() && !witness_failed_) spdlog::error("{}", Message(witnessed));
  witness_failed_ = !witnessed.ok();
  if (listener_) listener_(std::move(entry));
  return absl::OkStatus();
}

absl::Status ConversationStore::ReadPosition() {
  const MutexLock lock(commit_mutex_);
  const rocksdb::Slice place(kv_store::kPositionPlace);
  std::string record;
  const rocksdb::Status got = db_->Get({}, place, &record);
  if (!got.ok() && !got.IsNotFound()) return FromDatabase(got, "reading " + options_.folder);
  if (got.ok()) {
    auto position = kv_store::DecodePosition(record);
    if (position.ok()) {
      position_ = *std::move(position);
      return absl::OkStatus();
    }
    if (!absl::IsDataLoss(position.status())) {
      return absl::Status(position.status().code(),
                          fmt::format("{}: {}", options_.folder, Message(position.status())));
    }
    spdlog::error("{}: {}; it begins a new one, which copies of it do not know", options_.folder,
                  Message(position.status()));
  }
  position_ = kv_store::NewJournal();
  rocksdb::WriteOptions synced;
  synced.sync = true;
  return FromDatabase(db_->Put(synced, place, kv_store::EncodePosition(position_)),
                      "writing " + options_.folder);
}

kv_store::JournalPosition ConversationStore::position() {
  const MutexLock lock(commit_mutex_);
  return position_;
}

void ConversationStore::SetListener(Listener listener) {
  const MutexLock lock(commit_mutex_);
  listener_ = std::move(listener);
}

absl::Status ConversationStore::BeginBranch() {
  const ReaderMutexLock lock(db_mutex_);
  if (db_ == nullptr) return Unavailable("{} is not open", options_.folder);
  return Commit({}, {}, /*branch=*/true);
}

absl::StatusOr<std::vector<PlacedRecord>> ConversationStore::ReadAll() {
  const ReaderMutexLock lock(db_mutex_);
  if (db_ == nullptr) return Unavailable("{} is not open", options_.folder);
  return kv_store::ReadStrictly(*db_);
}

absl::Status ConversationStore::TakeFromCopy(const std::vector<PlacedRecord>& copy,
                                             const kv_store::JournalPosition& at,
                                             FoundConversations& found) {
  const ReaderMutexLock lock(db_mutex_);
  if (db_ == nullptr) return Unavailable("{} is not open", options_.folder);
  const ConversationReader reader(places_, options_.box);
  std::vector<JournalChange> batch;
  std::vector<WitnessSlot> slots;
  std::map<std::string, ReadConversation> taken;
  ForEachGroup(copy, [&](std::string_view of, std::span<const PlacedRecord> group) {
    const std::string prefix(of);
    const auto here = damaged_.find(prefix);
    if (!IsPrefix(prefix) || states_.contains(prefix) || (here == damaged_.end() && !behind_)) {
      return;
    }
    std::optional<WitnessSlot> claim;
    {
      const MutexLock commit_lock(commit_mutex_);
      const auto slot = witnessed_.find(ConversationPlaces::HashOfPrefix(prefix));
      if (slot != witnessed_.end()) claim = slot->second;
    }
    ReadConversation read = reader.Read(group, claim ? &*claim : nullptr, /*stale=*/true);
    if (absl::IsFailedPrecondition(read.status) ||
        (here != damaged_.end() && !read.status.ok() && read.state.turns <= here->second.turns)) {
      return;
    }
    batch.push_back(
        {.kind = JournalChange::Kind::kDeleteRange, .place = prefix, .bytes = EndOf(prefix)});
    for (const PlacedRecord& record : group) {
      batch.push_back(
          {.kind = JournalChange::Kind::kPut, .place = record.place, .bytes = record.bytes});
    }
    taken.emplace(prefix, std::move(read));
  });
  {
    const MutexLock commit_lock(commit_mutex_);
    if (!position_.Contains(at)) position_ = at;
  }
  TANDEM_RETURN_IF_ERROR(Commit(std::move(batch), {}, /*branch=*/true));
  for (auto& [prefix, read] : taken) {
    const auto is_it = [&](const auto& one) { return places_.Prefix(one.first) == prefix; };
    std::erase_if(found.conversations, is_it);
    found.nameless.erase(prefix);
    damaged_.erase(prefix);
    spdlog::info("{}: {} is taken from the copy, {} turns", options_.folder, read.described,
                 read.state.turns);
    Add(prefix, std::move(read), found);
  }
  behind_ = false;
  conversations_ = static_cast<int64_t>(states_.size());
  const MutexLock commit_lock(commit_mutex_);
  witness_.reset();  // made anew, with what was taken
  return Witness({});
}

absl::Status ConversationStore::Recover() {
  const kv_store::JournalPosition before = position();
  const auto read_position = [&]() ABSL_SHARED_LOCKS_REQUIRED(db_mutex_) -> absl::Status {
    TANDEM_RETURN_IF_ERROR(ReadPosition());
    // What failed may be there all the same.
    const MutexLock lock(commit_mutex_);
    if (position_.Contains(before)) return absl::OkStatus();
    position_ = before;
    return absl::DataLossError(
        fmt::format("{}: changes that were written are missing: start the "
                    "server again, which tells what is lost",
                    options_.folder));
  };
  {
    const ReaderMutexLock lock(db_mutex_);
    if (db_ != nullptr && db_->Resume().ok()) return read_position();
  }
  // RocksDB takes some errors for final that are not.
  const WriterMutexLock lock(db_mutex_);
  db_.reset();
  TANDEM_ASSIGN_OR_RETURN(db_, OpenDatabase(options_.folder));
  return read_position();
}

absl::Status ConversationStore::FinishErasures(const BlockEraser& erase_blocks,
                                               const CopyEraser& erase_copies) {
  const ReaderMutexLock lock(db_mutex_);
  if (db_ == nullptr) return Unavailable("{} is not open", options_.folder);
  // Cleared first: what is erased from now on may be missed below.
  erasing_ = false;
  std::vector<PlacedRecord> erasures;
  absl::Status status = ReadFrom(*db_, ConversationPlaces::kErasure, erasures);
  if (status.ok()) status = EraseBytes(erasures, erase_blocks, erase_copies);
  if (!status.ok()) erasing_ = true;
  return status;
}

absl::Status ConversationStore::EraseBytes(const std::vector<PlacedRecord>& erasures,
                                           const BlockEraser& erase_blocks,
                                           const CopyEraser& erase_copies) {
  if (erasures.empty()) return absl::OkStatus();
  std::vector<kv_store::PlaceRange> ranges;
  std::vector<kv_store::PlaceRange> copied_ranges;
  std::vector<kv_store::BlockHash> blocks;
  std::set<std::string> places;
  rocksdb::WriteBatch again;
  std::vector<JournalChange> done;
  for (const PlacedRecord& record : erasures) {
    done.push_back({.kind = JournalChange::Kind::kDelete, .place = record.place, .bytes = {}});
    places.insert(record.place);
    const auto erasure = core::Decode<ErasureRecord>("an erasure", Bytes(record.bytes));
    if (!erasure.ok()) {
      spdlog::error("{}: {}", options_.folder, Message(erasure.status()));
      continue;
    }
    blocks.insert(blocks.end(), erasure->blocks.begin(), erasure->blocks.end());
    if (erasure->prefix.empty()) continue;
    copied_ranges.emplace_back(erasure->prefix, EndOf(erasure->prefix));
    if (textless_.contains(record.place)) continue;
    // Written again so that there is something to flush, and the log with the text in it goes.
    again.Put(record.place, record.bytes);
    ranges.emplace_back(erasure->prefix, EndOf(erasure->prefix));
  }
  // The text here does not wait for hosts that do not answer.
  absl::Status erased;
  if (erase_blocks && !blocks.empty()) erased = erase_blocks(blocks);
  if (erase_copies && !copied_ranges.empty()) {
    absl::Status status = erase_copies(copied_ranges);
    if (erased.ok()) erased = std::move(status);
  }
  if (!ranges.empty()) {
    TANDEM_RETURN_IF_ERROR(FromDatabase(db_->Write({}, &again), "destroying"));
    TANDEM_RETURN_IF_ERROR(kv_store::EraseRanges(*db_, options_.folder, ranges));
    textless_ = std::move(places);
  }
  TANDEM_RETURN_IF_ERROR(erased);
  textless_.clear();
  return Commit(std::move(done));
}

}  // namespace tandem::frontend
