#include "frontend/conversations/conversation_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
#include <map>
#include <mutex>

#include "tests/support/random_conversations.h"
#include "tests/support/temporary_directory.h"

namespace tandem::frontend {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using testing::RandomConversations;
using testing::Same;
using testing::TemporaryDirectory;

/// A disk that takes no more: files of this process cannot grow any further.
class FullDisk {
 public:
  FullDisk() {
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before_);
    rlimit none = before_;
    none.rlim_cur = 0;
    setrlimit(RLIMIT_FSIZE, &none);
  }
  ~FullDisk() { setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_{};
};

struct Written {
  std::string folder() const { return temporary.path() + "/conversations"; }
  FoundConversations Open(ConversationStore::BlockEraser erase_blocks = nullptr) {
    writer.reset();
    auto opened = ConversationStore::Open({.folder = folder()});
    EXPECT_TRUE(opened.ok()) << opened.status();
    if (!opened.ok()) return {};
    writer = std::make_unique<ConversationWriter>(
        ConversationWriter::Options{.directory = temporary.path(),
                                    .retry = retry,
                                    .gather = gather,
                                    .erase_blocks = std::move(erase_blocks)},
        std::move(opened->store), opened->found);
    return std::move(opened->found);
  }
  /// What the log tells of a change.
  absl::Status Append(const std::string& id, ConversationDelta delta) {
    std::promise<absl::Status> told;
    writer->Append({"", id}, std::move(delta), {},
                   [&](absl::Status status) { told.set_value(std::move(status)); });
    return told.get_future().get();
  }
  absl::Status Erase(const std::string& id, std::vector<kv_store::BlockHash> blocks = {}) {
    std::promise<absl::Status> told;
    writer->Erase({"", id}, std::move(blocks),
                  [&](absl::Status status) { told.set_value(std::move(status)); });
    return told.get_future().get();
  }

  TemporaryDirectory temporary;
  milliseconds retry{50};
  milliseconds gather{10};
  std::unique_ptr<ConversationWriter> writer;
};

ConversationDelta Saying(const std::string& text) {
  ConversationDelta delta;
  delta.messages.push_back({"user", text});
  return delta;
}

bool Eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition() && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(milliseconds(5));
  }
  return condition();
}

TEST(ConversationWriter, WhatItToldOfIsThereAfterwards) {
  Written disk;
  disk.Open();
  RandomConversations random(1);
  std::map<std::string, Conversation> model;
  std::atomic<int> told = 0;
  for (int turn = 0; turn < 200; ++turn) {
    const std::string id = fmt::format("c{}", random.Below(10));
    const Conversation after = random.Next(model[id]);
    disk.writer->Append({"", id}, RandomConversations::Delta(model[id], after), {},
                        [&](const absl::Status& status) { told += status.ok() ? 1 : 0; });
    model[id] = after;
  }
  EXPECT_TRUE(Eventually([&] { return told == 200; }));
  const ConversationLogStatus status = disk.writer->Status();
  EXPECT_EQ(status.conversations, static_cast<int64_t>(model.size()));
  EXPECT_EQ(status.unwritten_changes, 0);
  EXPECT_EQ(status.trouble, "");
  const FoundConversations found = disk.Open();
  ASSERT_EQ(found.conversations.size(), model.size());
  for (const auto& [name, conversation] : found.conversations) {
    EXPECT_TRUE(Same(conversation, model.at(name.id)));
  }
}

TEST(ConversationWriter, ItsEndWritesWhatIsLeft) {
  Written disk;
  disk.Open();
  for (int turn = 0; turn < 100; ++turn) {
    disk.writer->Append({"", "c"}, Saying("hi"), {}, [](const absl::Status&) {});
  }
  EXPECT_EQ(disk.Open().conversations.at(0).second.messages.size(), 100U);
}

TEST(ConversationWriter, AFullDiskIsToldAndRecoveredFrom) {
  Written disk;
  disk.Open();
  ASSERT_TRUE(disk.Append("a", Saying("before")).ok());
  {
    const FullDisk full;
    EXPECT_FALSE(disk.Append("a", Saying("meanwhile")).ok());
    EXPECT_FALSE(disk.Append("b", Saying("another, meanwhile")).ok());
    EXPECT_FALSE(disk.Append("c", Saying("deleted again")).ok());
    EXPECT_FALSE(disk.Erase("c").ok());
    const ConversationLogStatus status = disk.writer->Status();
    EXPECT_EQ(status.unwritten_changes, 3) << "what was deleted again needs no turn";
    EXPECT_NE(status.trouble, "");
    std::this_thread::sleep_for(milliseconds(200));  // attempts that fail
    EXPECT_NE(disk.writer->Status().trouble, "");
  }
  EXPECT_TRUE(Eventually([&] { return disk.writer->Status().trouble.empty(); }));
  ASSERT_TRUE(disk.Append("a", Saying("after")).ok());
  EXPECT_TRUE(Eventually([&] { return disk.writer->Status().unfinished_erasures == 0; }));
  EXPECT_EQ(disk.writer->Status().unwritten_changes, 0);
  const FoundConversations found = disk.Open();
  ASSERT_EQ(found.conversations.size(), 2U);
  for (const auto& [name, conversation] : found.conversations) {
    EXPECT_EQ(conversation.messages.size(), name.id == "a" ? 3U : 1U);
  }
}

TEST(ConversationWriter, ErasuresTellOnceTheBlocksAreGoneToo) {
  Written disk;
  std::atomic<bool> away = true;
  std::atomic<int> asked = 0;
  const auto erase_blocks = [&](std::span<const kv_store::BlockHash> blocks) {
    asked += static_cast<int>(blocks.size());
    return away ? Unavailable("the agent is away") : absl::OkStatus();
  };
  disk.Open(erase_blocks);
  ASSERT_TRUE(disk.Append("a", Saying("hi")).ok());
  const absl::Status status = disk.Erase("a", {{1}, {2}, {3}});
  EXPECT_THAT(Message(status), HasSubstr("the agent is away"));
  EXPECT_EQ(disk.writer->Status().unfinished_erasures, 1);
  EXPECT_THAT(disk.writer->Status().trouble, HasSubstr("the agent is away"));
  disk.Open(erase_blocks);  // the next process goes on
  EXPECT_EQ(disk.writer->Status().unfinished_erasures, 1);
  away = false;
  EXPECT_TRUE(Eventually([&] { return disk.writer->Status().unfinished_erasures == 0; }));
  EXPECT_TRUE(Eventually([&] { return disk.writer->Status().trouble.empty(); }));
  EXPECT_GE(asked, 6);
  ASSERT_TRUE(disk.Append("a", Saying("hi")).ok());
  EXPECT_TRUE(disk.Erase("a", {{1}}).ok());
}

TEST(ConversationWriter, WhatTurnsLeaveBehindIsErasedAlsoByTheNextProcess) {
  Written disk;
  std::atomic<bool> away = false;
  std::mutex mutex;
  std::vector<kv_store::BlockHash> erased;
  const auto erase_blocks = [&](std::span<const kv_store::BlockHash> blocks) {
    if (away) return Unavailable("the agent is away");
    const std::lock_guard lock(mutex);
    erased.insert(erased.end(), blocks.begin(), blocks.end());
    return absl::OkStatus();
  };
  const auto all_erased = [&](const std::vector<kv_store::BlockHash>& expected) {
    return Eventually([&] {
      const std::lock_guard lock(mutex);
      return erased == expected && disk.writer->Status().unfinished_erasures == 0;
    });
  };
  disk.Open(erase_blocks);
  std::promise<absl::Status> told;
  disk.writer->Append({"", "a"}, Saying("hi"), {{1}, {2}},
                      [&](absl::Status status) { told.set_value(std::move(status)); });
  EXPECT_TRUE(told.get_future().get().ok());
  EXPECT_TRUE(all_erased({{1}, {2}}));
  away = true;
  disk.writer->EraseKv({{3}});
  EXPECT_TRUE(Eventually([&] { return !disk.writer->Status().trouble.empty(); }));
  const FoundConversations found = disk.Open(erase_blocks);
  EXPECT_EQ(found.conversations.size(), 1U);
  away = false;
  EXPECT_TRUE(all_erased({{1}, {2}, {3}}));
  EXPECT_EQ(disk.Open(erase_blocks).conversations.size(), 1U) << "and nothing but these blocks";
  EXPECT_EQ(disk.writer->Status().unfinished_erasures, 0);
}

TEST(ConversationWriter, TheTextOfAnErasureDoesNotWaitForItsBlocks) {
  Written disk;
  std::atomic<bool> away = true;
  std::atomic<int> asked = 0;
  disk.Open([&](std::span<const kv_store::BlockHash>) {
    ++asked;
    return away ? Unavailable("a host is away") : absl::OkStatus();
  });
  const std::string secret = "Xylophonic zebras";
  const auto is_there = [&] {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(disk.folder())) {
      if (!entry.is_regular_file()) continue;
      std::ifstream file(entry.path(), std::ios::binary);
      const std::string bytes(std::istreambuf_iterator<char>(file), {});
      if (bytes.find(secret) != std::string::npos) return true;
    }
    return false;
  };
  ASSERT_TRUE(disk.Append("a", Saying(secret)).ok());
  ASSERT_TRUE(is_there());
  EXPECT_FALSE(disk.Erase("a", {{1}}).ok());
  EXPECT_FALSE(is_there());
  EXPECT_EQ(disk.writer->Status().unfinished_erasures, 1);
  const int before = asked;
  EXPECT_TRUE(Eventually([&] { return asked >= before + 3; })) << "it is tried again";
  // Another's text goes, too, meanwhile.
  ASSERT_TRUE(disk.Append("b", Saying(secret)).ok());
  EXPECT_FALSE(disk.Erase("b", {{2}}).ok());
  EXPECT_FALSE(is_there());
  away = false;
  EXPECT_TRUE(Eventually([&] { return disk.writer->Status().unfinished_erasures == 0; }));
}

TEST(ConversationWriter, WhatIsLeftBehindIsDestroyedTogetherAndWhatIsDeletedAtOnce) {
  Written disk;
  disk.gather = std::chrono::hours(1);
  std::atomic<int> asked = 0;
  std::atomic<size_t> blocks = 0;
  disk.Open([&](std::span<const kv_store::BlockHash> some) {
    ++asked;
    blocks += some.size();
    return absl::OkStatus();
  });
  for (uint8_t i = 0; i < 50; ++i) disk.writer->EraseKv({{i}});
  ASSERT_TRUE(disk.Append("a", Saying("hi")).ok());
  EXPECT_TRUE(Eventually([&] { return disk.writer->Status().unfinished_erasures == 50; }));
  EXPECT_EQ(asked, 0);
  EXPECT_TRUE(disk.Erase("a", {{100}}).ok());
  EXPECT_EQ(asked, 1);
  EXPECT_EQ(blocks, 51U);
  EXPECT_EQ(disk.writer->Status().unfinished_erasures, 0);
  // The end does not wait for the gathering.
  disk.writer->EraseKv({{101}});
  disk.writer.reset();
  EXPECT_EQ(asked, 2);
}

TEST(ConversationWriter, AHostThatIsAwayIsAskedLessAndLessOften) {
  Written disk;
  disk.retry = milliseconds(20);
  std::atomic<bool> away = true;
  std::atomic<int> asked = 0;
  disk.Open([&](std::span<const kv_store::BlockHash>) {
    ++asked;
    return away ? Unavailable("a host is away") : absl::OkStatus();
  });
  // What turns leave behind meanwhile does not make it ask more often.
  const auto end = std::chrono::steady_clock::now() + milliseconds(600);
  for (uint8_t i = 0; std::chrono::steady_clock::now() < end; ++i) {
    disk.writer->EraseKv({{i}});
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_GE(asked, 2);
  EXPECT_LE(asked, 7) << "after 10, 30, 70, 150, 310, 630 ms";
  // Somebody who deletes is answered without waiting for the pause.
  ASSERT_TRUE(disk.Append("a", Saying("hi")).ok());
  away = false;
  EXPECT_TRUE(disk.Erase("a", {{100}}).ok());
  EXPECT_EQ(disk.writer->Status().unfinished_erasures, 0);
}

TEST(ConversationWriter, ErasingAConversationThatCannotBeReadFreesItsName) {
  Written disk;
  disk.Open();
  ASSERT_TRUE(disk.Append("a", Saying("hi")).ok());
  disk.writer.reset();
  auto opened = ConversationStore::Open({.folder = disk.folder()});
  ASSERT_TRUE(opened.ok());
  const std::string prefix = opened->store->PrefixOf({"", "a"});
  disk.writer = std::make_unique<ConversationWriter>(
      ConversationWriter::Options{}, std::move(opened->store),
      FoundConversations{.conversations = {},
                         .nameless = {},
                         .unreadable = {{prefix, "conversation \"a\": newer"}},
                         .damage = ""});
  EXPECT_TRUE(disk.writer->CheckReadable({"", "b"}).ok());
  const absl::Status status = disk.writer->CheckReadable({"", "a"});
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_THAT(Message(status), HasSubstr("conversation.delete"));
  EXPECT_EQ(disk.writer->Status().unreadable, 1);
  EXPECT_TRUE(disk.Erase("a").ok());
  EXPECT_TRUE(disk.writer->CheckReadable({"", "a"}).ok());
  EXPECT_EQ(disk.writer->Status().unreadable, 0);
}

}  // namespace
}  // namespace tandem::frontend
