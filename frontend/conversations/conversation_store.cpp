#include "frontend/conversations/conversation_store.h"

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
#include "frontend/conversations/conversation_erasure.h"
#include "frontend/text/name_number.h"

namespace tandem::frontend {

using kv_store::FromDatabase;
using kv_store::JournalChange;
using kv_store::PlacedRecord;

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

}  // namespace

ConversationStore::ConversationStore(Options options, std::unique_ptr<rocksdb::DB> db,
                                     ConversationPlaces places)
    : options_(std::move(options)),
      places_(places),
      db_(std::move(db)),
      watch_(options_.folder, *db_) {}

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
  constexpr size_t kMostWatched = 64;  // branches; the oldest are dropped
  const uint64_t branch = position_.branches.back().id;
  const bool new_branch = watched_.empty() || watched_.back().branch != branch;
  if (new_branch) {
    watched_.push_back({.branch = branch, .first = position_.sequence});
    if (watched_.size() > kMostWatched) watched_.erase(watched_.begin());
  }
  watched_.back().last = position_.sequence;
  for (WitnessSlot& slot : slots) {
    if (slot.kind == WitnessSlot::Kind::kErased) {
      witnessed_.erase(slot.conversation);
      erased_.Add({.conversation = slot.conversation, .instance = slot.instance});
    } else {
      witnessed_[slot.conversation] = slot;
    }
  }
  if (slots.empty()) {
    slots.push_back({.kind = WitnessSlot::Kind::kPosition, .sequence = position_.sequence});
  }
  // Who has read a part of them has not seen the change.
  for (WitnessSlot& slot : slots) slot.sequence = std::max<uint64_t>(1, position_.sequence) - 1;
  slots.back().sequence = position_.sequence;
  const size_t needed = witnessed_.size() + erased_.all().size();
  const bool goes_on =
      witness_ != nullptr && !new_branch && witness_->slots() < 4 * needed + kSpareSlots;
  absl::Status status;
  if (goes_on) {
    status = witness_->Append(slots);
  } else {
    std::vector<WitnessSlot> all{
        {.kind = WitnessSlot::Kind::kPosition, .sequence = position_.sequence}};
    for (const ErasedConversation& erased : erased_.all()) {
      all.push_back({.kind = WitnessSlot::Kind::kErased,
                     .conversation = erased.conversation,
                     .instance = erased.instance});
    }
    for (const auto& [hash, slot] : witnessed_) all.push_back(slot);
    for (WitnessSlot& slot : all) slot.sequence = position_.sequence;
    for (const WatchedChanges& watched : watched_) all.push_back(WatchedSlot(watched));
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
  TANDEM_RETURN_IF_ERROR(Check());
  std::vector<JournalChange> batch;
  const auto put = [&batch](std::string place, std::string bytes) {
    batch.push_back(
        {.kind = JournalChange::Kind::kPut, .place = std::move(place), .bytes = std::move(bytes)});
  };
  std::map<std::string, std::optional<ConversationState>> changed;  // nothing: erased
  std::vector<WitnessSlot> erased;
  bool erases = false;
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
      state = {.instance = DrawNumber(), .turns = 0, .last = {}};
      const auto damaged = damaged_.find(prefix);
      if (damaged != damaged_.end() && !changed.contains(prefix)) {
        batch.push_back(DeleteAllOf(prefix));
        if (damaged->second.instance != 0) state.instance = damaged->second.instance + 1;
      }
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
    batch.push_back(NoteErasure(erasure));
    erases = true;
  };
  const auto add_erasure = [&](const Erasure& erasure) {
    const std::string prefix = places_.Prefix(erasure.name);
    const WitnessHash conversation = ConversationPlaces::HashOfPrefix(prefix);
    std::set<uint64_t> instances = {state_of(prefix).instance};
    if (const auto damaged = damaged_.find(prefix); damaged != damaged_.end()) {
      instances.insert(damaged->second.instance);
    }
    {
      const MutexLock witness_lock(commit_mutex_);
      const auto witnessed = witnessed_.find(conversation);
      if (witnessed != witnessed_.end()) instances.insert(witnessed->second.instance);
    }
    for (const uint64_t instance : instances) {
      const ErasedConversation one{.conversation = conversation, .instance = instance};
      erased.push_back({.kind = WitnessSlot::Kind::kErased,
                        .conversation = one.conversation,
                        .instance = one.instance});
      if (instance != 0) put(PlaceOfErased(one), "");
    }
    batch.push_back(DeleteAllOf(prefix));
    note_erasure({prefix, erasure.blocks});
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
    for (const ErasedConversation& going : erased_.GoingFor(erased.size())) {
      batch.push_back(
          {.kind = JournalChange::Kind::kDelete, .place = PlaceOfErased(going), .bytes = {}});
    }
    TANDEM_RETURN_IF_ERROR(Witness(std::move(erased)));
    TANDEM_RETURN_IF_ERROR(witness_->Sync());
  }
  std::vector<WitnessSlot> slots;
  for (const auto& [prefix, state] : changed) {
    if (state) slots.push_back(SlotOf(prefix, *state));
  }
  TANDEM_RETURN_IF_ERROR(Commit(std::move(batch), std::move(slots)));
  TANDEM_RETURN_IF_ERROR(Check());
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
  journal_is_new_ = true;
  rocksdb::WriteOptions synced;
  synced.sync = true;
  return FromDatabase(db_->Put(synced, place, kv_store::EncodePosition(position_)),
                      "writing " + options_.folder);
}

std::optional<size_t> ConversationStore::Watched(const kv_store::JournalPosition& position) {
  const MutexLock lock(commit_mutex_);
  for (size_t i = watched_.size(); i > 0; --i) {
    const std::span<const WatchedChanges> one(&watched_[i - 1], 1);
    if (PlaceAmong(one, position) != WitnessedPlace::kUnknown) return i - 1;
  }
  return std::nullopt;
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

absl::Status ConversationStore::FinishErasures(const BlockEraser& erase_blocks,
                                               const CopyEraser& erase_copies) {
  const ReaderMutexLock lock(db_mutex_);
  if (db_ == nullptr) return Unavailable("{} is not open", options_.folder);
  TANDEM_RETURN_IF_ERROR(Check());
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
    copied_ranges.emplace_back(erasure->prefix, ConversationPlaces::EndOf(erasure->prefix));
    if (textless_.contains(record.place)) continue;
    // Written again so that there is something to flush, and the log with the text in it goes.
    again.Put(record.place, record.bytes);
    ranges.emplace_back(erasure->prefix, ConversationPlaces::EndOf(erasure->prefix));
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
