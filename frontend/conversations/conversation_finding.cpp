#include <rocksdb/db.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "core/base/counted.h"
#include "frontend/conversations/conversation_erasure.h"
#include "frontend/conversations/conversation_store.h"
#include "kv_store/journal/conversation_database.h"

/// Which conversations there are, of what a database and its witness say, and of what a copy has.
namespace tandem::frontend {

using kv_store::JournalChange;
using kv_store::PlacedRecord;
using kv_store::ReadDatabase;

namespace {

/// Whether it tells of turns. One that does not says that the conversation is there.
bool ClaimsTurns(const WitnessSlot& slot) {
  return slot.kind == WitnessSlot::Kind::kDamaged ||
         (slot.kind == WitnessSlot::Kind::kTurns && slot.turns > 0);
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
  WitnessReport erasures;
  if (auto report = ConversationWitness::Read(WitnessPath(options.folder));
      report.ok() && report->identity == places->identity()) {
    erasures.erased = std::move(report->erased);
  }
  ConversationStore store(options, std::move(read.db), *places);
  store.ReadErased(read.records, erasures);
  store.Read(read.records, erasures, found);
  return found;
}

void ConversationStore::ReadErased(const std::vector<PlacedRecord>& records,
                                   const WitnessReport& report) {
  std::set<ErasedConversation> recorded;
  for (const PlacedRecord& record : records) {
    if (const auto erased = ErasedOfPlace(record.place)) recorded.insert(*erased);
  }
  const MutexLock lock(commit_mutex_);
  // The witness knows their order.
  for (const ErasedConversation& erased : report.erased) erased_.Add(erased);
  for (const ErasedConversation& erased : recorded) erased_.Add(erased);
  for (const ErasedConversation& erased : erased_.all()) {
    if (!recorded.contains(erased)) unrecorded_.push_back(erased);
  }
}

bool ConversationStore::WasErased(const WitnessHash& conversation, uint64_t instance) {
  const MutexLock lock(commit_mutex_);
  return erased_.Has({.conversation = conversation, .instance = instance});
}

ConversationStore::Records ConversationStore::PartErased(const ConversationReader& reader,
                                                         Records group, Parted& parted) {
  const WitnessHash conversation = ConversationPlaces::HashOfPrefix(group[0].place);
  const MutexLock lock(commit_mutex_);
  if (!erased_.Has(conversation)) return group;
  for (const PlacedRecord& record : group) {
    const ErasedConversation one{.conversation = conversation,
                                 .instance = reader.InstanceOf(record)};
    (erased_.Has(one) ? parted.erased : parted.others).push_back(record);
  }
  return parted.others;
}

ConversationStore::Risen ConversationStore::Read(const std::vector<PlacedRecord>& records,
                                                 const WitnessReport& report,
                                                 FoundConversations& found) {
  const ConversationReader reader(places_, options_.box);
  Risen risen;
  std::set<std::string> there;
  ForEachGroup(records, [&](std::string_view of, Records group) {
    const std::string prefix(of);
    if (prefix == ConversationPlaces::kIdentity || prefix == kv_store::kPositionPlace ||
        prefix[0] == ConversationPlaces::kErased) {
      return;
    }
    if (prefix[0] == ConversationPlaces::kErasure) {
      erasing_ = true;
      return;
    }
    if (!ConversationPlaces::IsPrefix(prefix)) {
      Add(prefix, reader.Read(group, nullptr), found);
      return;
    }
    Parted parted;
    const Records alive = PartErased(reader, group, parted);
    if (!parted.erased.empty()) {
      RisenConversation& one = risen[prefix];
      one.read = reader.Read(parted.erased, nullptr);
      for (const PlacedRecord& record : parted.erased) one.places.push_back(record.place);
      spdlog::warn("{}: {} had been erased, and is destroyed", options_.folder, one.read.described);
      if (alive.empty()) return;
    }
    const auto known = report.slots.find(ConversationPlaces::HashOfPrefix(prefix));
    const WitnessSlot* const slot = known == report.slots.end() ? nullptr : &known->second;
    const bool claims =
        slot != nullptr && ClaimsTurns(*slot) && !WasErased(slot->conversation, slot->instance);
    const WitnessSlot* const claim = claims ? slot : nullptr;
    ReadConversation read = reader.Read(alive, claim);
    there.insert(prefix);
    if (absl::IsFailedPrecondition(read.status)) KeepSlot(prefix, claim);
    Add(prefix, std::move(read), found);
  });
  for (const auto& [hash, slot] : report.slots) {
    const std::string prefix = ConversationPlaces::PrefixOfHash(hash);
    if (!ClaimsTurns(slot) || there.contains(prefix) || WasErased(hash, slot.instance)) continue;
    ReadConversation lost = ConversationReader::Lost(prefix, slot);
    if (const auto before = risen.find(prefix);
        before != risen.end() && before->second.read.named) {
      lost.named = true;
      lost.name = before->second.read.name;
      lost.described = before->second.read.described;
    }
    Add(prefix, std::move(lost), found);
  }
  conversations_ = static_cast<int64_t>(states_.size());
  return risen;
}

WitnessSlot ConversationStore::SlotOf(const std::string& prefix,
                                      const ReadConversation& read) const {
  WitnessSlot slot = SlotOf(prefix, read.state);
  if (read.status.ok()) return slot;
  slot.kind = WitnessSlot::Kind::kDamaged;
  if (read.lost != 0) {
    slot.instance = read.lost;
    slot.turns = read.written;
    slot.last.reset();
    return slot;
  }
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
  for (const ErasedConversation& erased : std::exchange(unrecorded_, {})) {
    changes.push_back(
        {.kind = JournalChange::Kind::kPut, .place = PlaceOfErased(erased), .bytes = {}});
  }
  for (const auto& [prefix, one] : risen) {
    ErasureRecord erasure{.prefix = prefix, .blocks = {}};
    if (one.read.named) {
      erasure.blocks = BlocksBeside(found.conversations, one.read.name.tenant,
                                    one.read.conversation.history.tokens);
    }
    for (const std::string& place : one.places) {
      changes.push_back({.kind = JournalChange::Kind::kDelete, .place = place, .bytes = {}});
    }
    changes.push_back(NoteErasure(erasure));
  }
  return changes;
}

void ConversationStore::Add(const std::string& prefix, ReadConversation read,
                            FoundConversations& found) {
  chained_ = chained_ || read.chained;
  unkept_ = unkept_ || read.rest;
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
  ForEachGroup(copy, [&](std::string_view of, Records all) {
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
    Parted parted;
    const Records group = PartErased(reader, all, parted);
    if (group.empty()) return;
    ReadConversation read = reader.Read(group, claim && ClaimsTurns(*claim) ? &*claim : nullptr);
    if (absl::IsFailedPrecondition(read.status) || read.lost != 0 ||
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
  if (!taken.empty() && !found.damage.empty()) {
    found.damage += fmt::format(
        "; {} taken from a copy",
        Counted(static_cast<int64_t>(taken.size()), "conversation is", "conversations are"));
  }
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
