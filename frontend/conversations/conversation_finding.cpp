#include <rocksdb/db.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "frontend/conversations/conversation_erasure.h"
#include "frontend/conversations/conversation_store.h"
#include "kv_store/journal/conversation_database.h"

/// Which conversations there are, of what a database and its witness say, and of what a copy has.
namespace tandem::frontend {

using kv_store::JournalChange;
using kv_store::PlacedRecord;
using kv_store::ReadDatabase;

namespace {

/// Nowhere, if the records do not tell.
kv_store::JournalPosition PositionIn(const std::vector<PlacedRecord>& records) {
  const std::string* const position = BytesAt(records, kv_store::kPositionPlace);
  if (position == nullptr) return {};
  return kv_store::DecodePosition(*position).value_or(kv_store::JournalPosition{});
}

/// Whether it tells of turns. One that does not says that the conversation is there.
bool ClaimsTurns(const WitnessSlot& slot) {
  return slot.kind == WitnessSlot::Kind::kDamaged ||
         (slot.kind == WitnessSlot::Kind::kTurns && slot.turns > 0);
}

/// Whether these records are of a conversation that was erased after they were written. `slot`:
/// the last that there is of it, or null.
bool WasErased(const WitnessSlot* slot, const ReadConversation& there, WitnessedPlace place) {
  if (absl::IsFailedPrecondition(there.status)) return false;  // it may mean something else
  const bool earlier = place == WitnessedPlace::kEarlier;
  if (slot == nullptr) return earlier;
  const uint64_t instance = there.state.instance;
  const bool both_known = instance != 0 && slot->instance != 0;
  const bool same = both_known && (instance == slot->instance || WentOn(instance, slot->instance));
  if (slot->kind == WitnessSlot::Kind::kErased) {
    return earlier || place == WitnessedPlace::kLast || same;
  }
  return earlier && both_known && !same;
}

/// What a witness says, without how many turns there are.
WitnessReport WhatWasErased(const std::string& path, const ConversationPlaces& places) {
  auto report = ConversationWitness::Read(path);
  if (!report.ok() || report->identity != places.identity()) return {};
  for (auto& [hash, slot] : report->slots) {
    if (slot.kind != WitnessSlot::Kind::kErased) slot = {.conversation = hash};
  }
  return *std::move(report);
}

}  // namespace

int64_t FoundConversations::damaged() const {
  return static_cast<int64_t>(nameless.size()) +
         std::count_if(conversations.begin(), conversations.end(),
                       [](const auto& one) { return one.second.damaged; });
}

absl::StatusOr<FoundConversations> ConversationStore::Look(const Options& options) {
  TANDEM_ASSIGN_OR_RETURN(ReadDatabase read, kv_store::LookIntoDatabase(options.folder));
  FoundConversations found;
  const std::string* const identity = BytesAt(read.records, ConversationPlaces::kIdentity);
  if (identity == nullptr) {
    if (read.records.empty() && read.gaps == 0) return found;
    return absl::DataLossError(
        fmt::format("{}: it has no record that says how to read it", options.folder));
  }
  const auto places = ConversationPlaces::Read(std::as_bytes(std::span(*identity)), options.box);
  if (!places.ok()) {
    return absl::Status(places.status().code(),
                        fmt::format("{}: {}", options.folder, Message(places.status())));
  }
  // The witness is read behind the database, so what it says of turns may be later.
  const WitnessReport erasures = WhatWasErased(WitnessPath(options.folder), *places);
  const WitnessedPlace place = PlaceAmong(erasures.watched, PositionIn(read.records));
  ConversationStore(options, std::move(read.db), *places)
      .Read(read.records, erasures, place, found);
  return found;
}

ConversationStore::Risen ConversationStore::Read(const std::vector<PlacedRecord>& records,
                                                 const WitnessReport& report, WitnessedPlace place,
                                                 FoundConversations& found) {
  const ConversationReader reader(places_, options_.box);
  Risen risen;
  std::set<std::string> there;
  ForEachGroup(records, [&](std::string_view of, std::span<const PlacedRecord> group) {
    const std::string prefix(of);
    if (prefix == ConversationPlaces::kIdentity || prefix == kv_store::kPositionPlace) return;
    if (prefix[0] == ConversationPlaces::kErasure) {
      erasing_ = true;
      return;
    }
    if (!ConversationPlaces::IsPrefix(prefix)) {
      Add(prefix, reader.Read(group, nullptr, behind_), found);
      return;
    }
    const auto known = report.slots.find(ConversationPlaces::HashOfPrefix(prefix));
    const WitnessSlot* const slot = known == report.slots.end() ? nullptr : &known->second;
    const WitnessSlot* const claim = slot != nullptr && ClaimsTurns(*slot) ? slot : nullptr;
    if (place == WitnessedPlace::kEarlier || (slot != nullptr && claim == nullptr)) {
      ReadConversation there_now = reader.Read(group, nullptr, false);
      if (WasErased(slot, there_now, place)) {
        spdlog::warn("{}: {} had been erased, and is destroyed", options_.folder,
                     there_now.described);
        risen.emplace(prefix, std::move(there_now));
        if (claim == nullptr) return;
      }
    }
    ReadConversation read = reader.Read(group, claim, behind_);
    there.insert(prefix);
    if (absl::IsFailedPrecondition(read.status)) KeepSlot(prefix, claim);
    Add(prefix, std::move(read), found);
  });
  for (const auto& [hash, slot] : report.slots) {
    const std::string prefix = ConversationPlaces::PrefixOfHash(hash);
    if (!ClaimsTurns(slot) || there.contains(prefix)) continue;
    Add(prefix, ConversationReader::Lost(prefix, slot), found);
  }
  conversations_ = static_cast<int64_t>(states_.size());
  return risen;
}

WitnessSlot ConversationStore::SlotOf(const std::string& prefix,
                                      const ReadConversation& read) const {
  WitnessSlot slot = SlotOf(prefix, read.state);
  if (read.status.ok()) return slot;
  slot.kind = WitnessSlot::Kind::kDamaged;
  if (read.written > read.state.turns) slot.last.reset();
  slot.turns = std::max(read.written, read.state.turns);
  return slot;
}

void ConversationStore::KeepSlot(const std::string& prefix, const WitnessSlot* claim) {
  const WitnessHash hash = ConversationPlaces::HashOfPrefix(prefix);
  const MutexLock lock(commit_mutex_);
  witnessed_[hash] = claim != nullptr ? *claim : WitnessSlot{.conversation = hash};
}

std::vector<JournalChange> ConversationStore::ErasureOf(const Risen& risen,
                                                        const FoundConversations& found) {
  std::vector<JournalChange> changes;
  for (const auto& [prefix, read] : risen) {
    ErasureRecord erasure{.prefix = prefix, .blocks = {}};
    if (read.named) {
      erasure.blocks =
          BlocksBeside(found.conversations, read.name.tenant, read.conversation.history.tokens);
    }
    changes.push_back(DeleteAllOf(prefix));
    changes.push_back(NoteErasure(erasure));
  }
  return changes;
}

void ConversationStore::Add(const std::string& prefix, ReadConversation read,
                            FoundConversations& found) {
  chained_ = chained_ || read.chained;
  const std::string what = fmt::format("{}: {}", read.described, Message(read.status));
  if (absl::IsFailedPrecondition(read.status) || !ConversationPlaces::IsPrefix(prefix)) {
    spdlog::error("{}: {}; it stays on disk until it is deleted", options_.folder, what);
    found.unreadable.push_back({.prefix = prefix, .what = what});
    return;
  }
  const WitnessSlot slot = SlotOf(prefix, read);
  if (read.status.ok()) {
    states_[prefix] = read.state;
  } else {
    spdlog::error("{}: {}; its first {} messages are kept", options_.folder, what,
                  read.conversation.messages.size());
    damaged_[prefix] = read.state;
    read.conversation.damaged = true;
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

absl::Status ConversationStore::TakeFromCopy(const std::vector<PlacedRecord>& copy,
                                             const kv_store::JournalPosition& at,
                                             FoundConversations& found) {
  const ReaderMutexLock lock(db_mutex_);
  if (db_ == nullptr) return Unavailable("{} is not open", options_.folder);
  const ConversationReader reader(places_, options_.box);
  std::vector<JournalChange> batch;
  std::vector<WitnessSlot> slots;
  std::map<std::string, ReadConversation> taken;
  const bool watched = Watched(at).has_value();
  ForEachGroup(copy, [&](std::string_view of, std::span<const PlacedRecord> group) {
    const std::string prefix(of);
    const auto here = damaged_.find(prefix);
    if (!ConversationPlaces::IsPrefix(prefix) || states_.contains(prefix) ||
        (here == damaged_.end() && !behind_)) {
      return;
    }
    std::optional<WitnessSlot> claim;
    {
      const MutexLock commit_lock(commit_mutex_);
      const auto slot = witnessed_.find(ConversationPlaces::HashOfPrefix(prefix));
      if (slot != witnessed_.end()) claim = slot->second;
    }
    if (!claim && watched) return;  // it was erased
    ReadConversation read =
        reader.Read(group, claim && ClaimsTurns(*claim) ? &*claim : nullptr, /*stale=*/true);
    if (absl::IsFailedPrecondition(read.status) ||
        (here != damaged_.end() && !read.status.ok() && read.state.turns <= here->second.turns)) {
      return;
    }
    batch.push_back(DeleteAllOf(prefix));
    for (const PlacedRecord& record : group) {
      batch.push_back(
          {.kind = JournalChange::Kind::kPut, .place = record.place, .bytes = record.bytes});
    }
    slots.push_back(SlotOf(prefix, read));
    taken.emplace(prefix, std::move(read));
  });
  {
    const MutexLock commit_lock(commit_mutex_);
    if (!position_.Contains(at)) position_ = at;
  }
  TANDEM_RETURN_IF_ERROR(Commit(std::move(batch), std::move(slots), /*branch=*/true));
  for (auto& [prefix, read] : taken) {
    if (read.named) {
      std::erase_if(found.conversations,
                    [&name = read.name](const auto& one) { return one.first == name; });
    }
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

}  // namespace tandem::frontend
