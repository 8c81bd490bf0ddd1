#include "frontend/conversations/conversation_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "tests/support/disk_image.h"
#include "tests/support/random_conversations.h"
#include "tests/support/temporary_directory.h"

namespace tandem::frontend {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::RandomConversations;
using testing::Same;
using testing::TemporaryDirectory;

using Model = std::map<ConversationName, Conversation>;

kv_store::StateKey KeyOf(uint8_t fill) {
  kv_store::StateKey key;
  key.fill(fill);
  return key;
}

/// A folder for a store, and the store in it.
struct OnDisk {
  explicit OnDisk(const kv_store::EncryptedBox* box_of = nullptr) : box(box_of) {}

  FoundConversations Open() {
    store.reset();
    auto opened = ConversationStore::Open({.folder = folder(), .box = box});
    EXPECT_TRUE(opened.ok()) << opened.status();
    if (!opened.ok()) return {};
    store = std::move(opened->store);
    return std::move(opened->found);
  }
  std::string folder() const { return temporary.path() + "/conversations"; }
  absl::Status Turn(const ConversationName& name, const Conversation& before,
                    const Conversation& after) {
    const ConversationStore::Change change =
        ConversationStore::Turn{name, RandomConversations::Delta(before, after)};
    return store->Write(std::span(&change, 1));
  }
  absl::Status Erase(const ConversationName& name, std::vector<kv_store::BlockHash> blocks = {}) {
    const ConversationStore::Change change = ConversationStore::Erasure{name, std::move(blocks)};
    return store->Write(std::span(&change, 1));
  }
  /// Files that hold this text.
  std::vector<std::string> FilesWith(const std::string& text) const {
    std::vector<std::string> found;
    for (const auto& entry : fs::recursive_directory_iterator(temporary.path())) {
      if (!entry.is_regular_file()) continue;
      std::ifstream file(entry.path(), std::ios::binary);
      const std::string content{std::istreambuf_iterator<char>(file), {}};
      if (content.find(text) != std::string::npos) found.push_back(entry.path());
    }
    return found;
  }

  TemporaryDirectory temporary;
  const kv_store::EncryptedBox* box;
  std::unique_ptr<ConversationStore> store;
};

void ExpectSame(const FoundConversations& found, const Model& model) {
  EXPECT_TRUE(found.unreadable.empty());
  ASSERT_EQ(found.conversations.size(), model.size());
  for (const auto& [name, conversation] : found.conversations) {
    const auto expected = model.find(name);
    ASSERT_NE(expected, model.end()) << name.id;
    EXPECT_TRUE(Same(conversation, expected->second)) << name.id;
  }
}

/// Thousands of random changes, in batches, beside a map; reopened at random points.
void RunAgainstAModel(const kv_store::EncryptedBox* box, uint64_t seed) {
  OnDisk disk(box);
  RandomConversations random(seed);
  Model model;
  ExpectSame(disk.Open(), model);
  for (int step = 0; step < 400; ++step) {
    std::vector<ConversationStore::Change> changes;
    for (uint64_t i = 1 + random.Below(4); i > 0; --i) {
      const ConversationName name{fmt::format("tenant{}", random.Below(3)),
                                  fmt::format("c{}", random.Below(8))};
      if (random.Below(6) == 0) {
        changes.push_back(ConversationStore::Erasure{name, {}});
        model.erase(name);
      } else {
        const Conversation after = random.Next(model[name]);
        changes.push_back(
            ConversationStore::Turn{name, RandomConversations::Delta(model[name], after)});
        model[name] = after;
      }
    }
    ASSERT_TRUE(disk.store->Write(changes).ok());
    ASSERT_EQ(disk.store->conversations(), static_cast<int64_t>(model.size()));
    if (random.Below(40) == 0) {
      ASSERT_EQ(disk.store->FinishErasures(nullptr), absl::OkStatus());
    }
    if (random.Below(40) == 0) {
      ASSERT_TRUE(disk.store->Recover().ok());
    }
    if (random.Below(20) == 0) ExpectSame(disk.Open(), model);
  }
  ExpectSame(disk.Open(), model);
}

TEST(ConversationStore, IsAMapThatOutlivesItsProcess) { RunAgainstAModel(nullptr, 1); }

TEST(ConversationStore, IsOneWhenEncryptedToo) {
  const kv_store::EncryptedBox box(KeyOf(1));
  RunAgainstAModel(&box, 2);
}

TEST(ConversationStore, IsLookedIntoBesideItsOwner) {
  const kv_store::EncryptedBox box(KeyOf(1));
  const kv_store::EncryptedBox wrong(KeyOf(2));
  for (const kv_store::EncryptedBox* key :
       {static_cast<const kv_store::EncryptedBox*>(nullptr), &box}) {
    OnDisk disk(key);
    const ConversationStore::Options options{.folder = disk.folder(), .box = key};
    EXPECT_TRUE(absl::IsNotFound(ConversationStore::Look(options).status()));
    disk.Open();
    RandomConversations random(9);
    Model model;
    for (int i = 0; i < 20; ++i) {
      const ConversationName name{"", fmt::format("c{}", i % 7)};
      const Conversation after = random.Next(model[name]);
      ASSERT_TRUE(disk.Turn(name, model[name], after).ok());
      model[name] = after;
      const auto found = ConversationStore::Look(options);  // the store has it open
      ASSERT_TRUE(found.ok()) << found.status();
      ExpectSame(*found, model);
    }
    ASSERT_TRUE(disk.Erase({"", "c0"}).ok());
    model.erase({"", "c0"});
    const auto found = ConversationStore::Look(options);
    ASSERT_TRUE(found.ok()) << found.status();
    ExpectSame(*found, model);
    EXPECT_TRUE(absl::IsFailedPrecondition(
        ConversationStore::Look({.folder = disk.folder(), .box = &wrong}).status()));
    ExpectSame(disk.Open(), model);  // nothing was changed by looking
  }
}
TEST(ConversationStore, ATurnCostsWhatItAdds) {
  OnDisk disk;
  disk.Open();
  Conversation before;
  before.messages.push_back({"user", std::string(1000000, 'x')});
  before.history.tokens.assign(200000, 7);
  ASSERT_TRUE(disk.Turn({"", "long"}, {}, before).ok());
  const auto bytes = [&] {
    uintmax_t sum = 0;
    for (const auto& entry : fs::directory_iterator(disk.folder())) {
      std::error_code removed_meanwhile;
      const uintmax_t size = entry.file_size(removed_meanwhile);
      if (!removed_meanwhile) sum += size;
    }
    return sum;
  };
  const uintmax_t begin = bytes();
  for (int turn = 0; turn < 50; ++turn) {
    Conversation after = before;
    after.messages.push_back({"user", "hi"});
    after.history.tokens.push_back(turn);
    ASSERT_TRUE(disk.Turn({"", "long"}, before, after).ok());
    before = after;
  }
  EXPECT_LT(bytes() - begin, 50U * 1000);
  ExpectSame(disk.Open(), {{{"", "long"}, before}});
}

TEST(ConversationStore, ThousandsAreOpenedInNoTime) {
  OnDisk disk;
  disk.Open();
  RandomConversations random(4);
  for (int i = 0; i < 50; ++i) {
    std::vector<ConversationStore::Change> changes;
    for (int k = 0; k < 100; ++k) {
      const Conversation one = random.Next(random.Next({}));
      changes.push_back(
          ConversationStore::Turn{{"", fmt::format("c{}", i * 100 + k)}, DeltaOf(one)});
    }
    ASSERT_TRUE(disk.store->Write(changes).ok());
  }
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(disk.Open().conversations.size(), 5000U);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  EXPECT_LT(seconds.count(), 10) << "under sanitizers and load; 0.1 s otherwise";
}

TEST(ConversationStore, WhatWasErasedIsInNoFile) {
  OnDisk disk;
  disk.Open();
  const std::string secret = "the secret of the conversation";
  Conversation one;
  one.messages.push_back({"user", secret});
  one.history.segments.push_back({secret, false});
  Conversation other;
  other.messages.push_back({"user", "what stays"});
  ASSERT_TRUE(disk.Turn({"", "one"}, {}, one).ok());
  ASSERT_TRUE(disk.Turn({"", "other"}, {}, other).ok());
  EXPECT_FALSE(disk.FilesWith(secret).empty());
  disk.Open();  // out of the log, into a table
  EXPECT_FALSE(disk.FilesWith(secret).empty());
  ASSERT_TRUE(disk.Erase({"", "one"}, {{1}, {2}}).ok());
  EXPECT_TRUE(disk.store->erasing());
  disk.Open();  // the process dies before it could destroy the bytes
  EXPECT_TRUE(disk.store->erasing());
  EXPECT_TRUE(absl::IsUnavailable(
      disk.store->FinishErasures([](auto) { return Unavailable("the tier is away"); })));
  EXPECT_TRUE(disk.store->erasing());
  std::vector<kv_store::BlockHash> erased;
  ASSERT_TRUE(disk.store
                  ->FinishErasures([&](std::span<const kv_store::BlockHash> blocks) {
                    erased.assign(blocks.begin(), blocks.end());
                    return absl::OkStatus();
                  })
                  .ok());
  EXPECT_EQ(erased.size(), 2U);
  EXPECT_FALSE(disk.store->erasing());
  EXPECT_TRUE(disk.FilesWith(secret).empty()) << disk.FilesWith(secret).front();
  EXPECT_FALSE(disk.FilesWith("what stays").empty());
  ASSERT_TRUE(disk.Turn({"", "one"}, {}, other).ok());
  ExpectSame(disk.Open(), {{{"", "one"}, other}, {{"", "other"}, other}});
}

TEST(ConversationStore, EncryptedTextIsInNoFile) {
  const kv_store::EncryptedBox box(KeyOf(1));
  OnDisk disk(&box);
  disk.Open();
  RandomConversations random(5);
  const ConversationName name{"a-tenant-of-mine", "a-name-of-mine"};
  const Conversation one = random.Next({});
  ASSERT_TRUE(disk.Turn(name, {}, one).ok());
  disk.Open();
  for (const char* text : {"plaintext-of-a-user", "a-tenant-of-mine", "a-name-of-mine"}) {
    EXPECT_TRUE(disk.FilesWith(text).empty()) << text;
  }
}

TEST(ConversationStore, AnotherKeyIsRefused) {
  const kv_store::EncryptedBox right(KeyOf(1));
  const kv_store::EncryptedBox wrong(KeyOf(2));
  for (const kv_store::EncryptedBox* made_with :
       {static_cast<const kv_store::EncryptedBox*>(nullptr), &right}) {
    OnDisk disk(made_with);
    disk.Open();
    Conversation one;
    one.messages.push_back({"user", "hi"});
    ASSERT_TRUE(disk.Turn({"", "one"}, {}, one).ok());
    disk.store.reset();
    for (const kv_store::EncryptedBox* opened_with :
         {static_cast<const kv_store::EncryptedBox*>(nullptr), &right, &wrong}) {
      if (opened_with == made_with) continue;
      const auto opened = ConversationStore::Open({.folder = disk.folder(), .box = opened_with});
      ASSERT_TRUE(absl::IsFailedPrecondition(opened.status())) << opened.status();
      EXPECT_THAT(Message(opened.status()), HasSubstr("--state-key"));
      EXPECT_THAT(Message(opened.status()), HasSubstr(disk.folder()));
    }
    EXPECT_EQ(disk.Open().conversations.size(), 1U) << "and nothing was lost by trying";
  }
}

TEST(ConversationStore, HasOneProcess) {
  OnDisk disk;
  disk.Open();
  const auto second = ConversationStore::Open({.folder = disk.folder()});
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status())) << second.status();
}

/// The one file of a kind that holds the text.
std::string FileWith(const OnDisk& disk, const std::string& text, const std::string& extension) {
  for (const std::string& file : disk.FilesWith(text)) {
    if (fs::path(file).extension() == extension) return file;
  }
  return "";
}

void Change(const std::string& file, const std::string& at, size_t offset) {
  std::ifstream in(file, std::ios::binary);
  std::string content{std::istreambuf_iterator<char>(in), {}};
  const size_t place = content.find(at);
  ASSERT_NE(place, std::string::npos);
  content[place + offset] ^= 1;
  std::ofstream(file, std::ios::binary) << content;
}

/// A store with three conversations of three turns each, closed.
void MakeThree(OnDisk& disk, Model& model) {
  disk.Open();
  for (const char* id : {"a", "b", "c"}) {
    Conversation before;
    for (int turn = 0; turn < 3; ++turn) {
      Conversation after = before;
      after.messages.push_back({"user", fmt::format("text of {} in turn {}", id, turn)});
      after.history.tokens.push_back(turn);
      ASSERT_TRUE(disk.Turn({"", id}, before, after).ok());
      before = after;
    }
    model[{"", id}] = before;
  }
}

TEST(ConversationStore, ADamagedTableCostsOneConversationAndNoBytes) {
  OnDisk disk;
  Model model;
  MakeThree(disk, model);
  disk.Open();  // now it is in a table
  disk.store.reset();
  const std::string table = FileWith(disk, "text of b in turn 1", ".sst");
  ASSERT_FALSE(table.empty());
  Change(table, "text of b in turn 1", 3);
  const FoundConversations found = disk.Open();
  ASSERT_EQ(found.conversations.size(), 3U);
  for (const auto& [name, conversation] : found.conversations) {
    EXPECT_EQ(conversation.damaged, name.id == "b");
    EXPECT_EQ(conversation.messages.size(), name.id == "b" ? 1U : 3U);
    EXPECT_TRUE(conversation.damaged || Same(conversation, model.at(name)));
  }
  EXPECT_TRUE(fs::exists(disk.folder() + ".damaged-1"));
  // It is as damaged when it is opened again, and can be written to and deleted.
  EXPECT_EQ(disk.Open().damaged(), 1);
  EXPECT_FALSE(fs::exists(disk.folder() + ".damaged-2"));
  ASSERT_TRUE(disk.Erase({"", "b"}).ok());
  ASSERT_EQ(disk.store->FinishErasures(nullptr), absl::OkStatus());
  model.erase({"", "b"});
  ExpectSame(disk.Open(), model);
}

TEST(ConversationStore, WhateverByteOfATableIsDamagedNothingIsMisread) {
  OnDisk made;
  Model model;
  MakeThree(made, model);
  made.Open();
  made.store.reset();
  const std::string table = FileWith(made, "text of b in turn 1", ".sst");
  const auto size = static_cast<size_t>(fs::file_size(table));
  RandomConversations random(6);
  for (int round = 0; round < 60; ++round) {
    OnDisk disk;
    fs::copy(made.folder(), disk.folder(), fs::copy_options::recursive);
    const std::string copy = fs::path(disk.folder()) / fs::path(table).filename();
    const size_t place = random.Below(size);
    {
      std::fstream file(copy, std::ios::binary | std::ios::in | std::ios::out);
      file.seekg(static_cast<std::streamoff>(place));
      const int byte = file.get();
      file.seekp(static_cast<std::streamoff>(place));
      file.put(static_cast<char>(byte ^ (1 << random.Below(8))));
    }
    auto opened = ConversationStore::Open({.folder = disk.folder()});
    ASSERT_TRUE(opened.ok()) << opened.status();
    size_t whole = 0;
    for (const auto& [name, conversation] : opened->found.conversations) {
      if (conversation.damaged) continue;
      ++whole;
      EXPECT_TRUE(Same(conversation, model.at(name))) << place;
    }
    // Without a witness, not all that is missing can be named.
    EXPECT_TRUE(whole == model.size() || opened->found.damage != "") << "lost silently, " << place;
  }
}

TEST(ConversationStore, ATornLogLosesTheTornTurnOnly) {
  OnDisk disk;
  Model model;
  MakeThree(disk, model);
  const std::string log = FileWith(disk, "text of c in turn 2", ".log");
  // As kill -9 and a loss of power leave it: nothing was closed.
  OnDisk torn;
  testing::CopyAsOfAMoment(disk.folder(), torn.folder());
  const std::string copy = fs::path(torn.folder()) / fs::path(log).filename();
  fs::resize_file(copy, fs::file_size(copy) - 5);
  const FoundConversations found = torn.Open();
  EXPECT_TRUE(found.unreadable.empty());
  ASSERT_EQ(found.conversations.size(), 3U);
  for (const auto& [name, conversation] : found.conversations) {
    EXPECT_EQ(conversation.messages.size(), name.id == "c" ? 2U : 3U);
  }
}

TEST(ConversationStore, ALogDamagedInTheMiddleIsKeptAside) {
  OnDisk disk;
  Model model;
  MakeThree(disk, model);
  const std::string log = FileWith(disk, "text of b in turn 1", ".log");
  OnDisk damaged;
  testing::CopyAsOfAMoment(disk.folder(), damaged.folder());
  Change(fs::path(damaged.folder()) / fs::path(log).filename(), "text of b in turn 1", 2);
  const FoundConversations found = damaged.Open();
  // What came after the damage may be missing, and nothing is there that was not said.
  size_t turns = 0;
  for (const auto& [name, conversation] : found.conversations) {
    const std::vector<ChatMessage>& said = model.at(name).messages;
    ASSERT_LE(conversation.messages.size(), said.size());
    EXPECT_TRUE(
        std::equal(conversation.messages.begin(), conversation.messages.end(), said.begin()));
    turns += conversation.messages.size();
  }
  EXPECT_GE(turns, 4U);
  EXPECT_LT(turns, 9U);
  EXPECT_TRUE(fs::exists(damaged.folder() + ".damaged-1"));
}

}  // namespace
}  // namespace tandem::frontend
