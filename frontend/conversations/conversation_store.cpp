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
#include "frontend/text/name_number.h"
#include "kv_store/base/hex.h"

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

bool IsErasure(std::string_view place) {
  return !place.empty() && place[0] == ConversationPlaces::kErasure;
}

}  // namespace

ConversationStore::ConversationStore(Options options, std::unique_ptr<rocksdb::DB> db,
                                     ConversationPlaces places)
    : options_(std::move(options)), places_(places), db_(std::move(db)) {}

ConversationStore::~ConversationStore() = default;

absl::StatusOr<ConversationStore::Opened> ConversationStore::Open(const Options& options) {
  TANDEM_ASSIGN_OR_RETURN(auto opened, OpenDatabase(options.folder));
  std::optional<ConversationPlaces> places;
  const auto read_places = [&](std::string_view identity) -> absl::Status {
    auto known = ConversationPlaces::Read(Bytes(identity), options.box);
    if (!known.ok()) {
      return absl::Status(known.status().code(),
                          fmt::format("{}: {}", options.folder, Message(known.status())));
    }
    places = *known;
    return absl::OkStatus();
  };
  // First, so that nothing is put right with another key. Where its table is damaged it is found
  // below: whoever reads a damaged block unchecked may be ended by an assertion of RocksDB's.
  std::string identity;
  const rocksdb::Slice place(ConversationPlaces::kIdentity);
  const rocksdb::Status got = opened->Get({}, place, &identity);
  if (got.ok()) {
    TANDEM_RETURN_IF_ERROR(read_places(identity));
  } else if (!got.IsNotFound() && !got.IsCorruption()) {
    return FromDatabase(got, "reading " + options.folder);
  }
  TANDEM_ASSIGN_OR_RETURN(ReadDatabase read, ReadWhole(std::move(opened), options.folder));
  for (const PlacedRecord& record : read.records) {
    if (places || record.place != ConversationPlaces::kIdentity) continue;
    TANDEM_RETURN_IF_ERROR(read_places(record.bytes));
  }
  if (!places) {
    if (!read.records.empty() || read.gaps > 0) {
      return absl::DataLossError(fmt::format(
          "{}: it has {} records, but none that says how to read them; move the folder aside to "
          "begin a new one",
          options.folder, read.records.size()));
    }
    places.emplace(options.box);
    rocksdb::WriteOptions synced;
    synced.sync = true;
    const rocksdb::Status put = read.db->Put(synced, place, Text(places->identity()));
    if (!put.ok()) return FromDatabase(put, "writing " + options.folder);
  }
  Opened result;
  result.store.reset(new ConversationStore(options, std::move(read.db), *places));
  {
    const ReaderMutexLock lock(result.store->db_mutex_);
    TANDEM_RETURN_IF_ERROR(result.store->ReadPosition());
  }
  result.store->Read(read.records, result.found);
  if (read.gaps > 0) {
    result.found.unreadable.push_back(
        {.prefix = "", .what = fmt::format("{} runs of records of a damaged table", read.gaps)});
  }
  return result;
}

absl::StatusOr<FoundConversations> ConversationStore::Look(const Options& options) {
  TANDEM_ASSIGN_OR_RETURN(ReadDatabase read, kv_store::LookIntoDatabase(options.folder));
  FoundConversations found;
  const auto identity = std::find_if(
      read.records.begin(), read.records.end(),
      [](const PlacedRecord& record) { return record.place == ConversationPlaces::kIdentity; });
  if (identity == read.records.end()) {
    if (read.records.empty() && read.gaps == 0) return found;
    return absl::DataLossError(
        fmt::format("{}: it has no record that says how to read it", options.folder));
  }
  const auto places = ConversationPlaces::Read(Bytes(identity->bytes), options.box);
  if (!places.ok()) {
    return absl::Status(places.status().code(),
                        fmt::format("{}: {}", options.folder, Message(places.status())));
  }
  ConversationStore(options, std::move(read.db), *places).Read(read.records, found);
  return found;
}

void ConversationStore::Read(const std::vector<PlacedRecord>& records, FoundConversations& found) {
  const auto prefix_of = [](const PlacedRecord& record) {
    return std::string_view(record.place).substr(0, ConversationPlaces::kPrefixBytes);
  };
  for (auto begin = records.begin(); begin != records.end();) {
    const std::string_view prefix = prefix_of(*begin);
    auto end = std::find_if(begin, records.end(), [&](const PlacedRecord& record) {
      return prefix_of(record) != prefix;
    });
    const std::span<const PlacedRecord> group(begin, end);
    begin = end;
    if (prefix == ConversationPlaces::kIdentity || prefix == kv_store::kPositionPlace) continue;
    if (IsErasure(prefix)) {
      erasing_ = true;
      continue;
    }
    State state;
    ConversationName name;
    std::string described = fmt::format(
        "a conversation without a name, at {}",
        kv_store::Hex({reinterpret_cast<const uint8_t*>(prefix.data()), prefix.size()}));
    absl::StatusOr<Conversation> conversation = ReadOne(group, state, name, described);
    if (conversation.ok()) {
      states_[std::string(prefix)] = state;
      found.conversations.emplace_back(std::move(name), *std::move(conversation));
      continue;
    }
    std::string what = fmt::format("{}: {}", described, Message(conversation.status()));
    spdlog::error("{}: {}; it stays on disk until it is deleted", options_.folder, what);
    found.unreadable.push_back({.prefix = std::string(prefix), .what = std::move(what)});
  }
  conversations_ = static_cast<int64_t>(states_.size());
}

absl::StatusOr<Conversation> ConversationStore::ReadOne(std::span<const PlacedRecord> records,
                                                        State& state, ConversationName& name,
                                                        std::string& described) const {
  const auto number_of = [&](size_t i) {
    return ConversationPlaces::NumberOfPlace(records[i].place);
  };
  if (number_of(0) != 0U) return absl::DataLossError("its first record is missing");
  TANDEM_ASSIGN_OR_RETURN(const auto head_record, Decrypted(records[0]));
  TANDEM_ASSIGN_OR_RETURN(const ConversationHead head, DecodeHead(records[0].place, head_record));
  described = fmt::format(
      "conversation \"{}\"{}", head.name.id,
      head.name.tenant.empty() ? "" : fmt::format(" of tenant \"{}\"", head.name.tenant));
  if (records[0].place != ConversationPlaces::Place(places_.Prefix(head.name), 0)) {
    return absl::DataLossError("it lies at another's place");
  }
  if (records.size() != head.turns + 1) {
    return absl::DataLossError(
        fmt::format("it has {} turns, and {} are there", head.turns, records.size() - 1));
  }
  Conversation conversation;
  for (size_t i = 1; i < records.size(); ++i) {
    const auto named = [&](const absl::Status& status) {
      return absl::Status(status.code(), fmt::format("turn {}: {}", i, Message(status)));
    };
    if (number_of(i) != i) return absl::DataLossError(fmt::format("turn {} is missing", i));
    const auto record = Decrypted(records[i]);
    if (!record.ok()) return named(record.status());
    auto turn = DecodeTurn(records[i].place, *record);
    if (!turn.ok()) return named(turn.status());
    if (turn->instance != head.instance) {
      return absl::DataLossError(fmt::format("turn {} is of an earlier conversation", i));
    }
    const absl::Status applied = Apply(std::move(turn->delta), conversation);
    if (!applied.ok()) return named(applied);
  }
  state = {.instance = head.instance, .turns = head.turns};
  name = head.name;
  return conversation;
}

std::string ConversationStore::Encrypted(const std::string& tenant, const std::string& place,
                                         std::vector<std::byte> record) const {
  if (options_.box == nullptr) return Text(record);
  return Text(options_.box->Seal(NumberOf(tenant), Bytes(place), record));
}

absl::StatusOr<std::vector<std::byte>> ConversationStore::Decrypted(
    const PlacedRecord& record) const {
  const std::span<const std::byte> bytes = Bytes(record.bytes);
  if (options_.box != nullptr) return options_.box->Open(Bytes(record.place), bytes);
  return std::vector<std::byte>(bytes.begin(), bytes.end());
}

absl::Status ConversationStore::Write(std::span<const Change> changes) {
  const ReaderMutexLock lock(db_mutex_);
  if (db_ == nullptr) return Unavailable("{} is not open", options_.folder);
  std::vector<JournalChange> batch;
  const auto put = [&batch](std::string place, std::string bytes) {
    batch.push_back(
        {.kind = JournalChange::Kind::kPut, .place = std::move(place), .bytes = std::move(bytes)});
  };
  std::map<std::string, std::optional<State>> changed;  // nothing: erased
  bool erases = false;
  const auto state_of = [&](const std::string& prefix) -> State {
    if (const auto found = changed.find(prefix); found != changed.end()) {
      return found->second.value_or(State{});
    }
    const auto found = states_.find(prefix);
    return found == states_.end() ? State{} : found->second;
  };
  const auto add_turn = [&](const Turn& turn) {
    const std::string prefix = places_.Prefix(turn.name);
    State state = state_of(prefix);
    if (state.turns == 0) state.instance = DrawNumber();
    ++state.turns;
    const std::string head_place = ConversationPlaces::Place(prefix, 0);
    const std::string turn_place = ConversationPlaces::Place(prefix, state.turns);
    const ConversationHead head{turn.name, state.instance, state.turns};
    put(head_place, Encrypted(turn.name.tenant, head_place, EncodeHead(head_place, head)));
    put(turn_place, Encrypted(turn.name.tenant, turn_place,
                              EncodeTurn(turn_place, state.instance, turn.delta)));
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
    batch.push_back(
        {.kind = JournalChange::Kind::kDeleteRange, .place = prefix, .bytes = EndOf(prefix)});
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
  TANDEM_RETURN_IF_ERROR(Commit(std::move(batch)));
  if (erases) erasing_ = true;
  for (auto& [prefix, state] : changed) {
    if (state) {
      states_[prefix] = *state;
    } else {
      states_.erase(prefix);
    }
  }
  conversations_ = static_cast<int64_t>(states_.size());
  return absl::OkStatus();
}

absl::Status ConversationStore::Commit(std::vector<JournalChange> changes, bool branch) {
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
  return Commit({}, /*branch=*/true);
}

absl::StatusOr<std::vector<PlacedRecord>> ConversationStore::ReadAll() {
  const ReaderMutexLock lock(db_mutex_);
  if (db_ == nullptr) return Unavailable("{} is not open", options_.folder);
  return kv_store::ReadStrictly(*db_);
}

absl::Status ConversationStore::Recover() {
  {
    const ReaderMutexLock lock(db_mutex_);
    if (db_ != nullptr && db_->Resume().ok()) return ReadPosition();
  }
  // RocksDB takes some errors for final that are not.
  const WriterMutexLock lock(db_mutex_);
  db_.reset();
  TANDEM_ASSIGN_OR_RETURN(db_, OpenDatabase(options_.folder));
  // What failed may be there all the same.
  return ReadPosition();
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
