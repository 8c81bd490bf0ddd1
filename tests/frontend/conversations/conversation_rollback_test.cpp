#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/db.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "frontend/conversations/conversation_store.h"
#include "kv_store/base/files.h"
#include "kv_store/journal/conversation_database.h"
#include "tests/support/kept_store.h"

/// Files of a state directory that are put back to an earlier time: what was erased since stays
/// erased, what was said since is told to be missing, and nothing else is lost.
namespace tandem::frontend {
namespace {

namespace fs = std::filesystem;
using testing::ContentOf;
using ::testing::HasSubstr;
using testing::KeptStore;
using testing::RandomConversations;
using testing::Said;
using testing::Same;
using testing::TemporaryDirectory;

const ConversationName kA{"t", "a"};
const ConversationName kB{"t", "b"};

/// The database of a store as it was.
class Backup {
 public:
  explicit Backup(const KeptStore& of) { testing::CopyAsOfAMoment(of.folder(), folder()); }
  void PutBack(KeptStore& to) const {
    to.store.reset();
    fs::remove_all(to.folder());
    fs::copy(folder(), to.folder(), fs::copy_options::recursive);
  }

 private:
  std::string folder() const { return temporary_.path() + "/backup"; }
  TemporaryDirectory temporary_;
};

/// The store's conversations, by name; nameless ones by the names that are asked for.
struct Known {
  std::map<std::string, Conversation> named;
  std::set<std::string> damaged;
};
Known KnownIn(const FoundConversations& found, const KeptStore& kept) {
  Known known;
  for (const auto& [name, one] : found.conversations) {
    known.named[name.id] = one;
    if (one.damaged) known.damaged.insert(name.id);
  }
  for (const char* id : {"a", "b", "c", "d"}) {
    if (found.nameless.contains(kept.store->PrefixOf({"t", id}))) known.damaged.insert(id);
  }
  return known;
}

/// In which file below the folder this text is; empty: in none.
std::string FileWith(const std::string& folder, const std::string& text) {
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file() && ContentOf(entry.path()).find(text) != std::string::npos) {
      return entry.path();
    }
  }
  return "";
}

constexpr const char* kSecret = "a secret that is to be forgotten";

Conversation SecretOne() {
  Conversation secret;
  secret.messages.push_back({"user", kSecret});
  for (int32_t i = 0; i < 100; ++i) secret.history.tokens.push_back(i);
  return secret;
}

std::set<kv_store::BlockHash> FinishedErasures(KeptStore& kept) {
  std::set<kv_store::BlockHash> erased;
  EXPECT_EQ(kept.store->FinishErasures([&](std::span<const kv_store::BlockHash> blocks) {
    erased.insert(blocks.begin(), blocks.end());
    return absl::OkStatus();
  }),
            absl::OkStatus());
  return erased;
}

/// What the store has is what was said, and a later start tells nothing.
void ExpectAll(KeptStore& kept, const Said& said) {
  const FoundConversations found = kept.Open();
  EXPECT_EQ(found.damage, "");
  const Known known = KnownIn(found, kept);
  EXPECT_EQ(known.damaged, std::set<std::string>());
  EXPECT_EQ(known.named.size(), said.size());
  for (const auto& [name, one] : said) {
    EXPECT_TRUE(known.named.contains(name.id) && Same(known.named.at(name.id), one)) << name.id;
  }
}

struct Case {
  bool restarted = false;  // between the deletion and the way back
  bool encrypted = false;
  bool flushed = false;  // what is put back is in tables
};

TEST(ConversationRollback, NothingComesBackThatWasErased) {
  const kv_store::EncryptedBox box(kv_store::StateKey{1, 2, 3});
  for (const Case& one : {Case{}, Case{.restarted = true}, Case{.flushed = true},
                          Case{.restarted = true, .encrypted = true, .flushed = true}}) {
    SCOPED_TRACE(fmt::format("restarted {}, encrypted {}, flushed {}", one.restarted, one.encrypted,
                             one.flushed));
    KeptStore kept;
    if (one.encrypted) kept.box = &box;
    kept.Open();
    Said said;
    RandomConversations random(1);
    kept.SayOneMore(said, random);
    kept.Erase(kB);
    kept.Say(kB, {}, SecretOne());
    if (one.flushed) kept.Open();
    const Backup before(kept);
    kept.Erase(kB);
    said.erase(kB);
    if (one.restarted) kept.Open();
    before.PutBack(kept);

    if (one.restarted) {  // who only looks sees none of it either
      const auto looked = ConversationStore::Look({.folder = kept.folder(), .box = kept.box});
      ASSERT_TRUE(looked.ok()) << looked.status();
      EXPECT_EQ(looked->conversations.size(), said.size());
    }
    const FoundConversations found = kept.Open();
    const Known known = KnownIn(found, kept);
    EXPECT_EQ(known.damaged, std::set<std::string>());
    ASSERT_EQ(known.named.size(), said.size());
    for (const auto& [name, all] : said) EXPECT_TRUE(Same(known.named.at(name.id), all));
    EXPECT_THAT(found.damage, HasSubstr("1 conversation that had been erased was in it"));
    EXPECT_TRUE(kept.store->erasing());
    EXPECT_GE(FinishedErasures(kept).size(), 100U) << "its KV";
    EXPECT_EQ(FileWith(kept.path(), kSecret), "");
    EXPECT_FALSE(fs::exists(kept.folder() + ".damaged-1")) << "its files were whole";
    ExpectAll(kept, said);
    // And again, and of a later time than that.
    before.PutBack(kept);
    EXPECT_FALSE(KnownIn(kept.Open(), kept).named.contains("b"));
    FinishedErasures(kept);
    EXPECT_EQ(FileWith(kept.path(), kSecret), "");
    ExpectAll(kept, said);
    // The name is free.
    kept.Say(kB, {}, said[kB] = random.Next({}));
    ExpectAll(kept, said);
  }
}

TEST(ConversationRollback, NothingComesBackFromAnyEarlierTime) {
  // What was gone on with from an earlier time is another branch; files of each come back.
  KeptStore kept;
  kept.Open();
  Said said;
  RandomConversations random(2);
  kept.SayOneMore(said, random);
  const Backup first(kept);
  const Said said_first = said;
  kept.SayOneMore(said, random);
  const Backup second(kept);
  first.PutBack(kept);
  FoundConversations found = kept.Open();
  EXPECT_EQ(KnownIn(found, kept).damaged.size(), 3U);
  kept.Erase(kB);
  const Backup third(kept);
  kept.Erase(kA);
  kept.Say({"t", "d"}, {}, random.Next({}));
  for (const Backup* one : {&second, &first, &third, &second, &third, &first}) {
    one->PutBack(kept);
    found = kept.Open();
    const Known known = KnownIn(found, kept);
    EXPECT_FALSE(known.named.contains("a") || known.damaged.contains("a"));
    EXPECT_FALSE(known.named.contains("b") || known.damaged.contains("b"));
    EXPECT_TRUE(known.named.contains("c"));
    EXPECT_TRUE(known.damaged.contains("d"));
    EXPECT_NE(found.damage, "");
    FinishedErasures(kept);
    EXPECT_EQ(kept.Open().damage, "");
  }
  // The second has all of c.
  second.PutBack(kept);
  const Known known = KnownIn(kept.Open(), kept);
  EXPECT_TRUE(Same(known.named.at("c"), said[{"t", "c"}]));
}

TEST(ConversationRollback, OneThatWasBegunAnewIsNotTheOldOne) {
  KeptStore kept;
  kept.Open();
  Said said;
  RandomConversations random(3);
  kept.SayOneMore(said, random);
  kept.Erase(kB);
  kept.Say(kB, {}, SecretOne());
  const Backup before(kept);
  kept.Erase(kB);
  kept.Say(kB, {}, random.Next({}));
  before.PutBack(kept);
  const FoundConversations found = kept.Open();
  const Known known = KnownIn(found, kept);
  EXPECT_EQ(known.damaged, std::set<std::string>{"b"});
  EXPECT_TRUE(!known.named.contains("b") || known.named.at("b").messages.empty());
  FinishedErasures(kept);
  EXPECT_EQ(FileWith(kept.path(), kSecret), "");
  EXPECT_EQ(KnownIn(kept.Open(), kept).damaged, std::set<std::string>{"b"});
}

TEST(ConversationRollback, OneThatWasGoneOnWithStaysTheSame) {
  KeptStore kept;
  kept.Open();
  const Conversation first = SecretOne();
  kept.Say(kA, {}, first);
  const Backup before(kept);
  RandomConversations random(10);
  Conversation all = random.Next(first);
  kept.Say(kA, first, all);
  for (int round = 0; round < 3; ++round) {
    before.PutBack(kept);
    for (int restart = 0; restart < 3; ++restart) {
      SCOPED_TRACE(fmt::format("round {}, restart {}", round, restart));
      const Known known = KnownIn(kept.Open(), kept);
      EXPECT_EQ(known.damaged, std::set<std::string>{"a"});
      EXPECT_EQ(known.named.at("a").messages, first.messages);
      EXPECT_FALSE(kept.store->erasing());
    }
    // It is accepted, and gone on with.
    all = random.Next(first);
    const ConversationStore::Change change = ConversationStore::Turn{kA, DeltaOf(all)};
    ASSERT_TRUE(kept.store->Write({&change, 1}).ok());
    ExpectAll(kept, {{kA, all}});
  }
  kept.Erase(kA);
  before.PutBack(kept);
  EXPECT_TRUE(KnownIn(kept.Open(), kept).named.empty());
  FinishedErasures(kept);
  EXPECT_EQ(FileWith(kept.folder(), kSecret), "");
}

TEST(ConversationRollback, ADeletionThatWasBegunIsFinished) {
  KeptStore kept;
  kept.Open();
  kept.Say(kB, {}, SecretOne());
  kept.Say(kA, {}, SecretOne());
  const Backup before(kept);
  kept.Erase(kB);
  before.PutBack(kept);
  // As if the process had ended between the two files.
  std::string witness = ContentOf(kept.witness());
  const auto report = ConversationWitness::Read(kept.witness());
  ASSERT_TRUE(report.ok());
  for (uint64_t number = witness.size() / kWitnessSlotBytes; number-- > 2;) {
    const auto slot = DecodeWitnessSlot(
        std::as_bytes(std::span(witness)).subspan(number * kWitnessSlotBytes, kWitnessSlotBytes),
        number);
    ASSERT_TRUE(slot.ok());
    if (slot->kind == WitnessSlot::Kind::kErased) break;
    witness.resize(number * kWitnessSlotBytes);
  }
  std::ofstream(kept.witness(), std::ios::binary) << witness;
  const FoundConversations found = kept.Open();
  EXPECT_EQ(found.damage, "");
  EXPECT_EQ(KnownIn(found, kept).named.size(), 1U);
  EXPECT_TRUE(FinishedErasures(kept).empty()) << "the other conversation has all of its tokens";
}

TEST(ConversationRollback, WhatWasSaidSinceIsTold) {
  KeptStore kept;
  kept.Open();
  Said said;
  RandomConversations random(4);
  kept.SayOneMore(said, random);
  const Backup before(kept);
  const Conversation then = said[kA];
  const Conversation after = random.Next(then);
  kept.Say(kA, then, after);
  kept.Say({"t", "d"}, {}, random.Next({}));
  before.PutBack(kept);
  const FoundConversations found = kept.Open();
  const Known known = KnownIn(found, kept);
  EXPECT_EQ(known.damaged, (std::set<std::string>{"a", "d"}));
  EXPECT_EQ(known.named.at("a").messages, then.messages);
  EXPECT_THAT(found.damage, HasSubstr("its last change is"));
  EXPECT_TRUE(fs::exists(kept.folder() + ".damaged-1"));
}

/// Takes what a witness knows of changes away, as one of an older program has nothing of it.
void ForgetChanges(const KeptStore& kept) {
  const auto report = ConversationWitness::Read(kept.witness());
  ASSERT_TRUE(report.ok());
  std::vector<WitnessSlot> slots;
  for (const auto& [hash, slot] : report->slots) slots.push_back(slot);
  slots.push_back({.kind = WitnessSlot::Kind::kPosition, .sequence = report->sequence});
  ASSERT_TRUE(ConversationWitness::Make(kept.witness(), report->identity, slots).ok());
}

void FlipASlot(const KeptStore& kept) {
  std::string witness = ContentOf(kept.witness());
  witness[witness.size() - kWitnessSlotBytes + 20] ^= 4;
  std::ofstream(kept.witness(), std::ios::binary) << witness;
}

TEST(ConversationRollback, AWitnessThatCannotKnowTakesNothingAway) {
  const std::map<std::string, std::function<void(const KeptStore&)>> kinds = {
      {"of an older program", ForgetChanges},
      {"with a damaged slot", FlipASlot},
      {"that is gone", [](const KeptStore& kept) { fs::remove(kept.witness()); }}};
  for (const auto& [kind, spoil] : kinds) {
    for (const bool begun_anew : {false, true}) {
      SCOPED_TRACE(fmt::format("{}, begun anew {}", kind, begun_anew));
      KeptStore kept;
      kept.Open();
      Said said;
      RandomConversations random(5);
      kept.SayOneMore(said, random);
      const Backup before(kept);
      kept.store.reset();
      // The database comes to nothing, and the witness does not know of it all.
      spoil(kept);
      fs::remove_all(kept.folder());
      if (begun_anew) {
        kept.Open();
        kept.Say({"t", "d"}, {}, random.Next({}));
      }
      before.PutBack(kept);
      const Known known = KnownIn(kept.Open(), kept);
      for (const auto& [name, one] : said) {
        ASSERT_TRUE(known.named.contains(name.id)) << name.id;
        EXPECT_TRUE(Same(known.named.at(name.id), one));
      }
    }
  }
}

TEST(ConversationRollback, ADatabaseAheadOfItsWitnessLosesNothing) {
  KeptStore kept;
  kept.Open();
  Said said;
  RandomConversations random(6);
  kept.SayOneMore(said, random);
  const std::string witness = ContentOf(kept.witness());
  kept.Say({"t", "d"}, {}, said[{"t", "d"}] = random.Next({}));
  for (int restart = 0; restart < 3; ++restart) {
    kept.SayOneMore(said, random);
    kept.store.reset();
    std::ofstream(kept.witness(), std::ios::binary) << witness;  // what was not synced, say
    ExpectAll(kept, said);
  }
}

/// Somebody went on with a copy of the database, which comes back without its witness.
TEST(ConversationRollback, WhatWasSaidOnAnotherBranchIsKept) {
  KeptStore kept;
  kept.Open();
  Said said;
  RandomConversations random(7);
  kept.SayOneMore(said, random);
  KeptStore other;
  kept.CopyTo(other);
  other.Open();
  ASSERT_TRUE(other.store->BeginBranch().ok());
  const Conversation there = random.Next({});
  other.Say({"t", "d"}, {}, there);
  for (int turn = 0; turn < 3; ++turn) kept.SayOneMore(said, random);
  const Backup went_on(other);
  went_on.PutBack(kept);
  const Known known = KnownIn(kept.Open(), kept);
  ASSERT_TRUE(known.named.contains("d"));
  EXPECT_TRUE(Same(known.named.at("d"), there));
}

TEST(ConversationRollback, APartOfAWitnessTakesNothingAway) {
  KeptStore open;
  open.Open();
  Said said;
  RandomConversations random(8);
  open.SayOneMore(said, random);
  open.Open();  // the witness is made anew
  const Backup before(open);
  open.Erase(kB);
  said.erase(kB);
  open.Say({"t", "d"}, {}, random.Next({}));
  open.store.reset();
  const std::string witness = ContentOf(open.witness());
  size_t told = 0;  // of the erasure, behind so many bytes
  for (uint64_t number = 2; number < witness.size() / kWitnessSlotBytes; ++number) {
    const size_t at = number * kWitnessSlotBytes;
    const auto slot =
        DecodeWitnessSlot(std::as_bytes(std::span(witness)).subspan(at, kWitnessSlotBytes), number);
    if (slot->kind == WitnessSlot::Kind::kErased) told = at + kWitnessSlotBytes;
  }
  ASSERT_GT(told, 0U);
  for (size_t size = 0; size <= witness.size(); size += kWitnessSlotBytes) {
    for (const size_t more : {size_t{0}, size_t{7}}) {
      SCOPED_TRACE(fmt::format("slot {} and {}", size / kWitnessSlotBytes, more));
      KeptStore one;
      before.PutBack(one);
      std::ofstream(one.witness(), std::ios::binary) << witness.substr(0, size + more);
      const Known known = KnownIn(one.Open(), one);
      for (const auto& [name, all] : said) {
        ASSERT_TRUE(known.named.contains(name.id)) << name.id;
        EXPECT_TRUE(Same(known.named.at(name.id), all)) << name.id;
      }
      if (size >= told) {
        EXPECT_FALSE(known.named.contains("b"));
      }
    }
  }
}

TEST(ConversationRollback, HalfOfWhatWasToldOfAChangeTakesNothingAway) {
  KeptStore kept;
  kept.Open();
  Said said;
  RandomConversations random(11);
  kept.SayOneMore(said, random);
  const Backup first(kept);
  const Conversation d = random.Next({});
  const ConversationName names[] = {{"t", "d"}, {"t", "e"}};
  const ConversationStore::Change both[] = {ConversationStore::Turn{names[0], DeltaOf(d)},
                                            ConversationStore::Turn{names[1], DeltaOf(d)}};
  ASSERT_TRUE(kept.store->Write(both).ok());
  const Backup second(kept);
  kept.store.reset();
  fs::resize_file(kept.witness(), fs::file_size(kept.witness()) - kWitnessSlotBytes);
  first.PutBack(kept);
  kept.Open();
  second.PutBack(kept);
  const FoundConversations found = kept.Open();
  EXPECT_EQ(found.conversations.size(), said.size() + 2);
  EXPECT_EQ(found.damaged(), 0);
}

TEST(ConversationRollback, WhatAWitnessWasNotToldOfIsNotErased) {
  KeptStore kept;
  kept.Open();
  Said said;
  RandomConversations random(11);
  kept.Say(kA, {}, said[kA] = random.Next({}));
  const Backup first(kept);
  const Conversation later = random.Next({});
  kept.Say(kB, {}, later);
  const Backup second(kept);
  // With the witness, what tells one history from the other is gone: the next must be another.
  first.PutBack(kept);
  fs::remove(kept.witness());
  kept.Open();
  for (int i = 0; i < 4; ++i) {
    Conversation& one = said[kA];
    const Conversation after = random.Next(one);
    kept.Say(kA, one, after);
    one = after;
  }
  kept.Open();
  second.PutBack(kept);
  const Known known = KnownIn(kept.Open(), kept);
  ASSERT_TRUE(known.named.contains("b")) << "nobody has erased it";
  EXPECT_TRUE(Same(known.named.at("b"), later));
}

TEST(ConversationRollback, WhatANewerProgramWroteIsLeftAlone) {
  KeptStore kept;
  kept.Open();
  Said said;
  RandomConversations random(9);
  kept.SayOneMore(said, random);
  const std::string place = ConversationPlaces::Place(kept.store->PrefixOf({"t", "d"}), 0);
  kept.store.reset();
  {
    const auto db = kv_store::OpenDatabase(kept.folder());
    ASSERT_TRUE(db.ok());
    ASSERT_TRUE(kv_store::WriteAll(**db, {{place, std::string(100, '\x7f')}}).ok());
  }
  EXPECT_EQ(kept.Open().unreadable.size(), 1U);
  const auto report = ConversationWitness::Read(kept.witness());
  EXPECT_TRUE(
      report->slots.contains(ConversationPlaces::HashOfPrefix(kept.store->PrefixOf({"t", "d"}))))
      << "whoever reads it must not take it for one that was erased";
  const Backup before(kept);
  kept.SayOneMore(said, random);
  before.PutBack(kept);
  EXPECT_EQ(kept.Open().unreadable.size(), 1U);
  EXPECT_EQ(kept.Open().unreadable.size(), 1U);
}

}  // namespace
}  // namespace tandem::frontend
