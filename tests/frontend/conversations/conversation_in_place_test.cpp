#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/db.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <thread>

#include "frontend/conversations/conversation_writer.h"
#include "tests/support/disk_image.h"
#include "tests/support/kept_store.h"
#include "tests/support/random_conversations.h"
#include "tests/support/temporary_directory.h"

/// Files that are removed or replaced while a server has them open.
namespace tandem::frontend {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using testing::ContentOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::RandomConversations;
using testing::Same;
using testing::TemporaryDirectory;

bool Within(milliseconds time, const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (!condition() && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(milliseconds(2));
  }
  return condition();
}

/// A writer and all that was said.
struct DisturbedWriter {
  std::string folder() const { return temporary.path() + "/conversations"; }
  std::string witness() const { return ConversationStore::WitnessPath(folder()); }

  FoundConversations Open() {
    writer.reset();
    auto opened = ConversationStore::Open({.folder = folder(), .hold = hold});
    EXPECT_TRUE(opened.ok()) << opened.status();
    if (!opened.ok()) return {};
    ConversationWriter::Options options;
    options.directory = temporary.path();
    options.retry = look;
    options.gather = milliseconds(10);
    writer = std::make_unique<ConversationWriter>(std::move(options), std::move(opened->store),
                                                  opened->found);
    return std::move(opened->found);
  }
  absl::Status Say(const std::string& id) {
    const Conversation after = random.Next(said[id]);
    std::promise<absl::Status> told;
    writer->Append({"", id}, RandomConversations::Delta(said[id], after), {},
                   [&](absl::Status status) { told.set_value(std::move(status)); });
    said[id] = after;
    return told.get_future().get();
  }
  absl::Status Erase(const std::string& id) {
    said.erase(id);
    std::promise<absl::Status> told;
    writer->Erase({"", id}, {}, [&](absl::Status status) { told.set_value(std::move(status)); });
    return told.get_future().get();
  }
  /// What the next process finds is all that was said, and it finds nothing wrong.
  void ExpectAllThere() {
    const FoundConversations found = Open();
    EXPECT_EQ(found.damage, "");
    EXPECT_EQ(found.conversations.size(), said.size());
    for (const auto& [name, conversation] : found.conversations) {
      EXPECT_FALSE(conversation.damaged);
      ASSERT_TRUE(said.contains(name.id)) << name.id;
      EXPECT_TRUE(Same(conversation, said.at(name.id))) << name.id;
    }
  }

  TemporaryDirectory temporary;
  milliseconds look{60'000};  // so that turns alone look
  std::function<absl::StatusOr<std::string>()> hold;
  RandomConversations random{7};
  int moves = 0;
  std::map<std::string, Conversation> said;
  std::unique_ptr<ConversationWriter> writer;
};

void RemoveAllIn(const std::string& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) fs::remove_all(entry.path());
}

using Disturb = std::function<void(DisturbedWriter&)>;

const std::map<std::string, Disturb>& Disturbances() {
  static const std::map<std::string, Disturb> all = {
      {"all is removed", [](DisturbedWriter& kept) { RemoveAllIn(kept.temporary.path()); }},
      {"the folder is removed", [](DisturbedWriter& kept) { fs::remove_all(kept.folder()); }},
      {"the folder is moved",
       [](DisturbedWriter& kept) {
         fs::rename(kept.folder(), fmt::format("{}/{}", kept.temporary.path(), ++kept.moves));
       }},
      {"the folder is emptied", [](DisturbedWriter& kept) { RemoveAllIn(kept.folder()); }},
      {"the folder is another",
       [](DisturbedWriter& kept) {
         fs::remove_all(kept.folder());
         fs::create_directory(kept.folder());
         std::ofstream(kept.folder() + "/mine") << "mine";
       }},
      {"the folder is a file",
       [](DisturbedWriter& kept) {
         fs::remove_all(kept.folder());
         std::ofstream(kept.folder()) << "mine";
       }},
      {"CURRENT is removed", [](DisturbedWriter& kept) { fs::remove(kept.folder() + "/CURRENT"); }},
      {"CURRENT is another", [](DisturbedWriter& kept) {
         std::ofstream(kept.folder() + "/CURRENT") << "MANIFEST-000001\n";
       }}};
  return all;
}

/// Each file of a kind, by what its name begins or ends with.
void RemoveFiles(const std::string& folder, const std::string& with) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename();
    if (name.starts_with(with) || name.ends_with(with)) fs::remove(entry.path());
  }
}

TEST(ConversationInPlace, WhatIsAcknowledgedIsThereWhateverIsRemoved) {
  std::map<std::string, Disturb> all = Disturbances();
  for (const char* with : {".log", ".sst", "MANIFEST"}) {
    all[fmt::format("{} is removed", with)] = [with](DisturbedWriter& kept) {
      RemoveFiles(kept.folder(), with);
    };
  }
  all["the log is cut"] = [](DisturbedWriter& kept) {
    for (const auto& entry : fs::directory_iterator(kept.folder())) {
      if (entry.path().extension() == ".log") fs::resize_file(entry.path(), 10);
    }
  };
  for (const auto& [what, disturb] : all) {
    SCOPED_TRACE(what);
    DisturbedWriter kept;
    kept.Open();
    for (int i = 0; i < 5; ++i) ASSERT_TRUE(kept.Say(fmt::format("c{}", i % 3)).ok());
    kept.ExpectAllThere();  // and in tables then
    ASSERT_TRUE(kept.Say("c0").ok());
    ASSERT_EQ(kept.writer->Status().damage, "");
    disturb(kept);
    EXPECT_TRUE(kept.Say("c1").ok());
    const ConversationLogStatus status = kept.writer->Status();
    EXPECT_THAT(status.damage, HasSubstr(kept.temporary.path()));
    EXPECT_THAT(status.damage, HasSubstr("while the server ran"));
    EXPECT_EQ(status.trouble, "");
    // As a kill -9 would leave it.
    TemporaryDirectory killed;
    testing::CopyAsOfAMoment(kept.temporary.path(), killed.path());
    {
      const auto opened = ConversationStore::Open({.folder = killed.path() + "/conversations"});
      ASSERT_TRUE(opened.ok()) << opened.status();
      EXPECT_EQ(opened->found.conversations.size(), kept.said.size());
      EXPECT_EQ(opened->found.damage, "");
    }
    EXPECT_TRUE(kept.Say("c2").ok());
    EXPECT_EQ(kept.writer->Status().damage, status.damage) << "it is told once";
    kept.ExpectAllThere();
  }
}

TEST(ConversationInPlace, ItLooksWhileNobodySpeaksAndAtItsEnd) {
  for (const auto& [what, disturb] : Disturbances()) {
    SCOPED_TRACE(what);
    DisturbedWriter kept;
    kept.look = milliseconds(20);
    kept.Open();
    ASSERT_TRUE(kept.Say("c").ok());
    disturb(kept);
    EXPECT_TRUE(
        Within(milliseconds(20'000), [&] { return !kept.writer->Status().damage.empty(); }));
    kept.look = milliseconds(60'000);
    kept.ExpectAllThere();
    disturb(kept);
    kept.ExpectAllThere();
  }
}

TEST(ConversationInPlace, AnOlderCopyInItsPlaceBringsNothingBack) {
  for (const bool with_witness : {false, true}) {
    SCOPED_TRACE(with_witness);
    DisturbedWriter kept;
    kept.Open();
    ASSERT_TRUE(kept.Say("kept").ok());
    ASSERT_TRUE(kept.Say("deleted").ok());
    const TemporaryDirectory older;
    testing::CopyAsOfAMoment(kept.temporary.path(), older.path());
    ASSERT_TRUE(kept.Erase("deleted").ok());
    ASSERT_TRUE(kept.Say("kept").ok());
    fs::remove_all(kept.folder());
    fs::copy(older.path() + "/conversations", kept.folder());
    if (with_witness) {
      fs::remove(kept.witness());
      fs::copy(ConversationStore::WitnessPath(older.path() + "/conversations"), kept.witness());
    }
    ASSERT_TRUE(kept.Say("kept").ok());
    const std::string aside = kept.folder() + ".aside-1";
    EXPECT_THAT(kept.writer->Status().damage, HasSubstr(aside));
    EXPECT_TRUE(fs::exists(aside + "/CURRENT"));
    EXPECT_EQ(fs::exists(kept.witness() + ".aside-1"), with_witness);
    kept.ExpectAllThere();
    // The name is known as deleted, whatever is put back later.
    kept.writer.reset();
    fs::remove_all(kept.folder());
    fs::copy(older.path() + "/conversations", kept.folder());
    EXPECT_THAT(kept.Open().damage, HasSubstr("had been erased"));
  }
}

TEST(ConversationInPlace, AWitnessThatIsGoneIsMadeAnew) {
  const std::map<std::string, Disturb> all = {
      {"removed", [](DisturbedWriter& kept) { fs::remove(kept.witness()); }},
      {"cut", [](DisturbedWriter& kept) { fs::resize_file(kept.witness(), 100); }},
      {"longer",
       [](DisturbedWriter& kept) { std::ofstream(kept.witness(), std::ios::app) << "more"; }},
      {"another",
       [](DisturbedWriter& kept) {
         fs::remove(kept.witness());
         std::ofstream(kept.witness()) << "mine";
       }},
      {"a folder", [](DisturbedWriter& kept) {
         fs::remove(kept.witness());
         fs::create_directory(kept.witness());
       }}};
  for (const auto& [what, disturb] : all) {
    SCOPED_TRACE(what);
    DisturbedWriter kept;
    kept.Open();
    ASSERT_TRUE(kept.Say("a").ok());
    ASSERT_TRUE(kept.Say("b").ok());
    disturb(kept);
    ASSERT_TRUE(kept.Say("b").ok());
    EXPECT_THAT(kept.writer->Status().damage, HasSubstr(kept.witness()));
    EXPECT_EQ(fs::exists(kept.witness() + ".aside-1"), what != "removed");
    kept.writer.reset();
    // It knows of both.
    fs::remove_all(kept.folder());
    EXPECT_EQ(kept.Open().damaged(), 2);
  }
}

TEST(ConversationInPlace, NothingCountsWhileAnotherHasTheDirectory) {
  DisturbedWriter kept;
  std::mutex mutex;
  absl::StatusOr<std::string> answer = "";
  std::atomic<int> asked = 0;
  kept.hold = [&] {
    ++asked;
    const std::lock_guard lock(mutex);
    return answer;
  };
  const auto answer_with = [&](absl::StatusOr<std::string> with) {
    const std::lock_guard lock(mutex);
    answer = std::move(with);
  };
  kept.look = milliseconds(20);
  kept.Open();
  ASSERT_TRUE(kept.Say("c").ok());
  answer_with(FailedPrecondition("it is in use by another"));
  EXPECT_TRUE(Within(milliseconds(20'000), [&] { return !kept.writer->Status().trouble.empty(); }))
      << "it is told without a turn";
  EXPECT_THAT(kept.writer->Status().trouble, HasSubstr("in use by another"));
  const auto before = ContentOf(kept.witness());
  EXPECT_FALSE(kept.Say("c").ok());
  EXPECT_FALSE(kept.Say("d").ok());
  EXPECT_EQ(kept.writer->Status().unwritten_changes, 2);
  EXPECT_EQ(ContentOf(kept.witness()), before) << "what another has is left alone";
  answer_with("it was taken again");
  EXPECT_TRUE(Within(milliseconds(20'000), [&] { return kept.writer->Status().trouble.empty(); }));
  EXPECT_THAT(kept.writer->Status().damage, HasSubstr("it was taken again"));
  answer_with("");
  EXPECT_TRUE(kept.Say("c").ok());
  EXPECT_EQ(kept.writer->Status().unwritten_changes, 0);
  kept.ExpectAllThere();
  EXPECT_GT(asked, 10);
}

TEST(ConversationInPlace, WhatCannotBeWrittenAnewIsToldAndTriedAgain) {
  DisturbedWriter kept;
  kept.look = milliseconds(20);
  kept.Open();
  ASSERT_TRUE(kept.Say("c").ok());
  // No link is followed, so the new database has no place.
  const std::string in_the_way = kept.folder() + ".unfinished";
  fs::create_directory(kept.temporary.path() + "/mine");
  fs::create_directory_symlink(kept.temporary.path() + "/mine", in_the_way);
  fs::remove_all(kept.folder());
  for (int i = 0; i < 3; ++i) EXPECT_THAT(Message(kept.Say("c")), HasSubstr(in_the_way));
  EXPECT_FALSE(kept.Erase("d").ok());
  EXPECT_THAT(kept.writer->Status().trouble, HasSubstr(in_the_way));
  EXPECT_FALSE(fs::exists(kept.folder())) << "nothing is there, and nothing is said to be";
  fs::remove(in_the_way);
  EXPECT_TRUE(Within(milliseconds(20'000), [&] { return kept.writer->Status().trouble.empty(); }));
  EXPECT_TRUE(kept.Say("c").ok());
  EXPECT_THAT(kept.writer->Status().damage, HasSubstr("is gone"));
  kept.ExpectAllThere();
  EXPECT_TRUE(fs::is_empty(kept.temporary.path() + "/mine"));
}

TEST(ConversationInPlace, WhoEndsMeanwhileLeavesOneDatabaseOrTheOther) {
  DisturbedWriter kept;
  kept.Open();
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(kept.Say("c").ok());
  kept.writer.reset();
  // Half of it was written.
  fs::copy(kept.folder(), kept.folder() + ".unfinished");
  fs::remove(kept.folder() + ".unfinished/CURRENT");
  kept.ExpectAllThere();
  kept.writer.reset();
  EXPECT_FALSE(fs::exists(kept.folder() + ".unfinished"));
  // All of it was, and nothing was in its place.
  fs::rename(kept.folder(), kept.folder() + ".new");
  fs::create_directory(kept.folder() + ".unfinished");
  kept.ExpectAllThere();
  EXPECT_FALSE(fs::exists(kept.folder() + ".new"));
}

TEST(ConversationInPlace, NothingIsToldWhereNobodyDisturbs) {
  DisturbedWriter kept;
  kept.look = milliseconds(1);
  kept.Open();
  // So much that tables are written and merged meanwhile, and files come and go.
  for (int i = 0; i < 200; ++i) {
    const std::string id = fmt::format("c{}", i % 7);
    ConversationDelta delta;
    delta.messages.push_back(
        {"user", std::string(size_t{1} << 18, static_cast<char>('a' + i % 26))});
    kept.said[id].messages.push_back(delta.messages[0]);
    std::promise<absl::Status> told;
    kept.writer->Append({"", id}, std::move(delta), {},
                        [&](absl::Status status) { told.set_value(std::move(status)); });
    ASSERT_EQ(told.get_future().get(), absl::OkStatus());
    if (i % 20 == 19) {
      ASSERT_EQ(kept.Erase(id), absl::OkStatus());
    }
  }
  const ConversationLogStatus status = kept.writer->Status();
  EXPECT_EQ(status.damage, "");
  EXPECT_EQ(status.trouble, "");
  kept.ExpectAllThere();
}

TEST(ConversationInPlace, TablesThatAreCutAreTold) {
  DisturbedWriter kept;
  kept.Open();
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(kept.Say("c").ok());
  kept.ExpectAllThere();  // and in tables then
  for (const auto& entry : fs::directory_iterator(kept.folder())) {
    if (entry.path().extension() == ".sst") fs::resize_file(entry.path(), 20);
  }
  // What is read of them may be in memory.
  if (kept.Say("c").ok()) {
    kept.ExpectAllThere();
    return;
  }
  EXPECT_THAT(kept.writer->Status().trouble, HasSubstr("which tells what is lost"));
  EXPECT_FALSE(kept.Say("d").ok());
  const FoundConversations found = kept.Open();
  EXPECT_THAT(found.damage, HasSubstr(kept.folder()));
  EXPECT_EQ(found.damaged(), 1);
}

TEST(ConversationInPlace, ThatWasPutThereIsNotTouched) {
  DisturbedWriter kept;
  kept.Open();
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(kept.Say("c").ok());
  kept.ExpectAllThere();
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(kept.Say("c").ok());
  const TemporaryDirectory older;
  testing::CopyAsOfAMoment(kept.folder(), older.path());
  kept.ExpectAllThere();
  ASSERT_TRUE(kept.Say("c").ok());
  std::map<std::string, std::string> put;
  fs::remove_all(kept.folder());
  fs::copy(older.path(), kept.folder());
  for (const auto& entry : fs::directory_iterator(kept.folder())) {
    put[entry.path().filename()] = ContentOf(entry.path());
  }
  ASSERT_TRUE(kept.Say("c").ok());
  kept.writer.reset();
  for (const auto& [name, content] : put) {
    EXPECT_EQ(ContentOf(fmt::format("{}.aside-1/{}", kept.folder(), name)), content) << name;
  }
  kept.ExpectAllThere();
}

TEST(ConversationInPlace, NothingIsLostWhileItIsRemovedAgainAndAgain) {
  DisturbedWriter kept;
  kept.look = milliseconds(5);
  kept.Open();
  std::atomic<int> counted = 0;
  std::atomic<bool> stop = false;
  std::thread attacker([&] {
    for (int i = 0; !stop; ++i) {
      std::error_code gone;
      if (i % 3 == 0) {
        fs::rename(kept.folder(), fmt::format("{}/moved{}", kept.temporary.path(), i), gone);
      } else if (i % 3 == 1) {
        fs::remove_all(kept.folder(), gone);
      } else {
        fs::remove(kept.folder() + "/CURRENT", gone);
      }
      // At any moment of what is done about it; seldom where that takes long.
      const int slow = counted == 0 ? 1 + i / 5 : 1;
      std::this_thread::sleep_for(milliseconds(1 + 37 * i % 400) * slow);
    }
  });
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  const auto latest = end + std::chrono::seconds(60);  // where all is slow
  for (auto now = end;
       (now = std::chrono::steady_clock::now()) < end || (counted == 0 && now < latest);) {
    ConversationDelta delta;
    delta.messages.push_back({"user", std::string(size_t{1} << 19, 'a')});  // tables are written
    kept.said["c"].messages.push_back(delta.messages[0]);
    std::promise<absl::Status> told;
    kept.writer->Append({"", "c"}, std::move(delta), {},
                        [&](absl::Status status) { told.set_value(std::move(status)); });
    counted += told.get_future().get().ok() ? 1 : 0;
    std::this_thread::sleep_for(milliseconds(50));
  }
  stop = true;
  attacker.join();
  EXPECT_GT(counted, 0);
  EXPECT_TRUE(Within(milliseconds(20'000), [&] { return kept.writer->Status().trouble.empty(); }))
      << kept.writer->Status().trouble;
  kept.ExpectAllThere();
}

}  // namespace
}  // namespace tandem::frontend
