#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/db.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "frontend/conversations/conversation_store.h"
#include "kv_store/journal/conversation_database.h"
#include "tests/support/kept_store.h"

/// Files of several times of a state directory, copied over each other.
namespace tandem::frontend {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::KeptStore;
using ::testing::Not;
using testing::RandomConversations;
using testing::Said;
using testing::Same;
using testing::TemporaryDirectory;

ConversationName Called(const std::string& id) { return {"t", id}; }

/// Older files over those that are there, which stay where none has their name.
void CopyOver(const std::string& older, const KeptStore& kept) {
  fs::copy(older, kept.folder(),
           fs::copy_options::recursive | fs::copy_options::overwrite_existing);
}

/// Conversations that are gone on with at random, and which of them were erased for good.
class Talk {
 public:
  explicit Talk(uint64_t seed) : random_(seed) { kept_.Open(); }

  void Act() {
    const ConversationName name{"t", std::string(1, static_cast<char>('a' + random_.Below(8)))};
    switch (random_.Below(8)) {
      case 0:
        if (said_.erase(name) == 0) break;
        kept_.Erase(name);
        erased_.insert(name);
        break;
      case 1:
        kept_.Open();
        break;
      case 2:
        copies_.push_back(fmt::format("{}/{}", backups_.path(), copies_.size()));
        testing::CopyAsOfAMoment(kept_.folder(), copies_.back());
        break;
      default:
        if (!erased_.contains(name)) Say(name);
    }
  }
  void MixFiles() {
    if (copies_.empty()) return;
    kept_.store.reset();
    CopyOver(copies_[random_.Below(copies_.size())], kept_);
  }
  /// Every conversation is what was said, or is told to be damaged; what was erased is not there.
  void CheckAStart() {
    const FoundConversations found = kept_.Open();
    ASSERT_NE(kept_.store, nullptr);
    EXPECT_TRUE(found.damaged() == 0 || !found.damage.empty() || told_);
    told_ = found.damaged() > 0;
    std::set<ConversationName> there;
    for (const auto& [name, one] : found.conversations) {
      EXPECT_FALSE(erased_.contains(name)) << name.id << " is back; " << found.damage;
      if (erased_.contains(name)) continue;
      there.insert(name);
      EXPECT_TRUE(one.damaged || Same(one, said_[name])) << name.id << " is another";
      now_[name] = one;
    }
    for (const auto& [name, one] : said_) {
      if (there.contains(name)) continue;
      EXPECT_TRUE(found.nameless.contains(kept_.store->PrefixOf(name)))
          << name.id << " is lost silently";
      now_[name] = {};
      now_[name].damaged = true;
    }
    for (const ConversationName& name : erased_) {
      EXPECT_FALSE(found.nameless.contains(kept_.store->PrefixOf(name))) << name.id;
    }
    ASSERT_EQ(kept_.store->FinishErasures(nullptr), absl::OkStatus());
  }

 private:
  void Say(const ConversationName& name) {
    const Conversation& one = now_[name];
    Conversation after = random_.Next(one);
    after.damaged = false;
    const ConversationStore::Change change = ConversationStore::Turn{
        name, one.damaged ? DeltaOf(after) : RandomConversations::Delta(one, after)};
    ASSERT_TRUE(kept_.store->Write({&change, 1}).ok());
    now_[name] = said_[name] = after;
  }

  RandomConversations random_;
  KeptStore kept_;
  Said said_;  // if nothing were lost
  Said now_;
  std::set<ConversationName> erased_;
  TemporaryDirectory backups_;
  std::vector<std::string> copies_;
  bool told_ = false;
};

TEST(ConversationMixture, IsOpenedAndNothingOfItIsTakenForAnother) {
  for (uint64_t seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE(seed);
    Talk talk(seed);
    for (int round = 0; round < 4; ++round) {
      for (int i = 0; i < 12; ++i) talk.Act();
      talk.MixFiles();
      for (int restart = 0; restart < 2; ++restart) talk.CheckAStart();
    }
  }
}

struct Told {
  std::set<std::string> whole;
  std::set<std::string> damaged;
};
Told ToldIn(const FoundConversations& found, const KeptStore& kept) {
  Told told;
  for (const auto& [name, one] : found.conversations) {
    (one.damaged ? told.damaged : told.whole).insert(name.id);
  }
  for (const char* id : {"a", "b", "c", "d", "e"}) {
    if (found.nameless.contains(kept.store->PrefixOf(Called(id)))) told.damaged.insert(id);
  }
  return told;
}
using Names = std::set<std::string>;

/// A copy of everything, or of the database alone, that can be put back.
class PutBack {
 public:
  explicit PutBack(const KeptStore& of) { testing::CopyAsOfAMoment(of.path(), path()); }
  void Database(KeptStore& to) const {
    to.store.reset();
    fs::remove_all(to.folder());
    fs::copy(path() + "/conversations", to.folder(), fs::copy_options::recursive);
  }
  void Everything(KeptStore& to) const {
    Database(to);
    fs::copy(path() + "/conversations.witness", to.witness(), fs::copy_options::overwrite_existing);
  }

 private:
  std::string path() const { return temporary_.path() + "/all"; }
  TemporaryDirectory temporary_;
};

/// Two histories go on from one time, each from the same change of the same branch.
TEST(ConversationMixture, OfTwoHistoriesTakesNothingAway) {
  for (int later = 1; later <= 4; ++later) {
    for (const bool restarted : {false, true}) {
      SCOPED_TRACE(fmt::format("{} later turns, restarted {}", later, restarted));
      RandomConversations random(1);
      KeptStore kept;
      kept.Open();
      kept.Say(Called("a"), {}, random.Next({}));
      const PutBack before(kept);
      const Conversation said = random.Next({});
      kept.Say(Called("b"), {}, said);
      const Conversation one_d = random.Next({});
      kept.Say(Called("d"), {}, one_d);
      const PutBack first(kept);
      before.Everything(kept);
      kept.Open();
      Conversation all;
      for (int turn = 0; turn < later; ++turn) {
        const Conversation next = random.Next(all);
        kept.Say(Called("c"), all, next);
        all = next;
      }
      kept.Say(Called("d"), {}, random.Next({}));
      if (restarted) kept.Open();
      first.Database(kept);
      FoundConversations found = kept.Open();
      EXPECT_FALSE(kept.store->erasing());
      EXPECT_THAT(found.damage, HasSubstr("2 conversations lack what was said"));
      EXPECT_THAT(found.damage, HasSubstr("kept as they were in " + kept.folder() + ".damaged-1"));
      EXPECT_THAT(found.damage, Not(HasSubstr("erased")));
      for (int restart = 0; restart < 3; ++restart) {
        const Told told = ToldIn(found, kept);
        EXPECT_EQ(told.whole, (Names{"a", "b"})) << restart;
        EXPECT_EQ(told.damaged, (Names{"c", "d"})) << restart;
        for (const auto& [name, there] : found.conversations) {
          EXPECT_TRUE(name.id != "b" || Same(there, said));
          EXPECT_TRUE(name.id != "d" || there.messages == one_d.messages);
        }
        found = kept.Open();
      }
      // Whoever deletes what is there by that name deletes both.
      const PutBack both(kept);
      kept.Erase(Called("d"));
      kept.Erase(Called("a"));
      for (const PutBack* older : {&first, &both, &before}) {
        older->Database(kept);
        const Told told = ToldIn(kept.Open(), kept);
        EXPECT_FALSE(told.whole.contains("d") || told.damaged.contains("d"));
        EXPECT_FALSE(told.whole.contains("a") || told.damaged.contains("a"));
      }
    }
  }
}

/// What is destroyed and what is only not gone on with come back together.
TEST(ConversationMixture, KeepsTheFilesOfWhatIsNotGoneOnWith) {
  RandomConversations random(4);
  KeptStore kept;
  kept.Open();
  const Conversation begun = random.Next({});
  kept.Say(Called("a"), {}, begun);
  kept.Say(Called("b"), {}, random.Next({}));
  const PutBack before(kept);
  kept.Say(Called("a"), begun, random.Next(begun));
  const PutBack first(kept);
  before.Everything(kept);
  kept.Open();
  kept.Say(Called("a"), begun, random.Next(begun));
  kept.Erase(Called("b"));
  first.Database(kept);
  const FoundConversations found = kept.Open();
  EXPECT_EQ(ToldIn(found, kept).damaged, Names{"a"});
  EXPECT_EQ(ToldIn(found, kept).whole, Names{});
  EXPECT_THAT(found.damage, HasSubstr("1 conversation lacks what was said"));
  EXPECT_THAT(found.damage, HasSubstr("1 conversation that had been erased was in it"));
  EXPECT_THAT(found.damage, HasSubstr("remove them soon"));
  EXPECT_TRUE(fs::exists(kept.folder() + ".damaged-1"));
}

/// A witness that ends early, at the border of a slot.
TEST(ConversationMixture, WithAWitnessThatIsCutTakesNothingAway) {
  RandomConversations random(2);
  KeptStore made;
  made.Open();
  made.Say(Called("a"), {}, random.Next({}));
  made.Say(Called("b"), {}, random.Next({}));
  const PutBack first(made);
  made.Say(Called("c"), {}, random.Next({}));
  made.Say(Called("d"), {}, random.Next({}));
  made.Erase(Called("b"));
  const PutBack second(made);
  const std::string witness = testing::ContentOf(made.witness());
  for (size_t size = 0; size <= witness.size(); size += kWitnessSlotBytes) {
    SCOPED_TRACE(size / kWitnessSlotBytes);
    KeptStore kept;
    second.Database(kept);
    std::ofstream(kept.witness(), std::ios::binary) << witness.substr(0, size);
    Told told = ToldIn(kept.Open(), kept);
    EXPECT_EQ(told.whole, (Names{"a", "c", "d"}));
    EXPECT_EQ(told.damaged, Names{}) << "the database has on record what was erased";

    std::ofstream(kept.witness(), std::ios::binary) << witness.substr(0, size);
    first.Database(kept);
    kept.Open();
    kept.Say(Called("e"), {}, random.Next({}));
    kept.Say(Called("a"), {}, random.Next({}));
    kept.Say(Called("e"), {}, random.Next({}));
    second.Database(kept);
    told = ToldIn(kept.Open(), kept);
    EXPECT_TRUE(told.whole.contains("c") && told.whole.contains("d"));
    EXPECT_TRUE(told.damaged.contains("e") && told.damaged.contains("a"));
    EXPECT_FALSE(told.whole.contains("b")) << "which the database has on record";
  }
}

/// As if all files of a deleted conversation had survived, and the witness with its deletion not.
TEST(ConversationMixture, WithoutAWitnessBringsNothingBackThatTheDatabaseKnows) {
  RandomConversations random(3);
  KeptStore kept;
  kept.Open();
  kept.Say(Called("a"), {}, random.Next({}));
  kept.Say(Called("b"), {}, random.Next({}));
  const auto before = kept.store->ReadAll();
  ASSERT_TRUE(before.ok());
  kept.Erase(Called("b"));
  const std::string prefix = kept.store->PrefixOf(Called("b"));
  kept.store.reset();
  fs::remove(kept.witness());
  {
    const auto db = kv_store::OpenDatabase(kept.folder());
    ASSERT_TRUE(db.ok());
    for (const kv_store::PlacedRecord& record : *before) {
      if (!record.place.starts_with(prefix)) continue;
      ASSERT_TRUE(kv_store::WriteAll(**db, {record}).ok());
    }
  }
  const FoundConversations found = kept.Open();
  EXPECT_EQ(ToldIn(found, kept).whole, Names{"a"});
  EXPECT_EQ(found.damaged(), 0);
  EXPECT_TRUE(kept.store->erasing());
}

}  // namespace
}  // namespace tandem::frontend
