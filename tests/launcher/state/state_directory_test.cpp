#include "launcher/state/state_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>

#include "tests/support/temporary_directory.h"

namespace tandem::launcher {
namespace {

using ::testing::HasSubstr;
using testing::TemporaryDirectory;

mode_t ModeOf(const std::string& path) {
  struct stat facts {};
  EXPECT_EQ(stat(path.c_str(), &facts), 0) << path;
  return facts.st_mode & 07777U;
}

TEST(StateDirectory, IsMadeForItsOwnerOnly) {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/deep/state";
  const auto taken = StateDirectory::Take(path, "tcp://here:1");
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_EQ(ModeOf(path), 0700U);
  EXPECT_EQ(ModeOf(path + "/lock"), 0600U);
}

TEST(StateDirectory, ASecondServerIsToldOfTheFirst) {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/state";
  auto first = StateDirectory::Take(path, "tcp://here:*");
  ASSERT_TRUE(first.ok()) << first.status();
  (*first)->Announce("tcp://here:1234");
  const auto second = StateDirectory::Take(path, "tcp://there:2");
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status()));
  EXPECT_THAT(Message(second.status()), HasSubstr(fmt::format("process {} on host", getpid())));
  EXPECT_THAT(Message(second.status()), HasSubstr("tcp://here:1234"));
  first->reset();
  EXPECT_TRUE(StateDirectory::Take(path, "tcp://there:2").ok());
}

TEST(StateDirectory, OneThatWasKilledLeavesItFree) {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/state";
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const auto taken = StateDirectory::Take(path, "tcp://killed:1");
    const char answer = taken.ok() ? 'y' : 'n';
    if (write(ready[1], &answer, 1) != 1) _exit(1);
    pause();
    _exit(0);
  }
  char answer = 0;
  ASSERT_EQ(read(ready[0], &answer, 1), 1);
  EXPECT_EQ(answer, 'y');
  EXPECT_THAT(Message(StateDirectory::Take(path, "x").status()), HasSubstr("tcp://killed:1"));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(StateDirectory::Take(path, "tcp://next:1").ok());
  close(ready[0]);
  close(ready[1]);
}

TEST(StateDirectory, WhatIsInTheWayIsPutAsideButForTheLock) {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/state";
  std::filesystem::create_directory(path);
  chmod(path.c_str(), 0700);
  std::ofstream(path + "/conversations") << "mine";
  std::ofstream(path + "/kv") << "mine";
  std::filesystem::create_directory(path + "/conversations.witness");
  std::filesystem::create_directory(path + "/lost+found");
  {
    const auto taken = StateDirectory::Take(path, "x");
    ASSERT_TRUE(taken.ok()) << taken.status();
    for (const char* name : {"conversations", "kv", "conversations.witness"}) {
      EXPECT_FALSE(std::filesystem::exists(fmt::format("{}/{}", path, name)));
      const std::string aside = fmt::format("{}/{}.damaged-1", path, name);
      EXPECT_TRUE(std::filesystem::exists(aside));
      EXPECT_THAT((*taken)->put_aside(), HasSubstr(aside));
    }
  }
  EXPECT_EQ(StateDirectory::Take(path, "x").value()->put_aside(), "");
  std::filesystem::remove(path + "/lock");
  std::filesystem::create_directory(path + "/lock");
  const auto refused = StateDirectory::Take(path, "x");
  EXPECT_TRUE(absl::IsUnavailable(refused.status()));
  EXPECT_THAT(Message(refused.status()), HasSubstr(path + "/lock: it is a folder"));
  EXPECT_THAT(Message(refused.status()), HasSubstr("move it away"));
  EXPECT_TRUE(std::filesystem::is_directory(path + "/lock"));
}

struct Taken {
  Taken() : directory(StateDirectory::Take(path, "tcp://here:1").value()) {}
  /// Whether others are kept out.
  bool IsKept() const {
    return absl::IsFailedPrecondition(StateDirectory::Take(path, "x").status());
  }

  TemporaryDirectory folder;
  const std::string path = folder.path() + "/state";
  const std::string lock = path + "/lock";
  std::unique_ptr<StateDirectory> directory;
};

TEST(StateDirectory, IsTakenAgainWhereSomebodyRemovesIt) {
  const std::map<std::string, std::function<void(const Taken&)>> all = {
      {"lock was removed", [](const Taken& taken) { std::filesystem::remove(taken.lock); }},
      {"lock was replaced",
       [](const Taken& taken) {
         std::filesystem::remove(taken.lock);
         std::ofstream(taken.lock) << "another";
       }},
      {"state was removed", [](const Taken& taken) { std::filesystem::remove_all(taken.path); }},
      {"lock was removed ", [](const Taken& taken) {
         std::filesystem::rename(taken.path, taken.folder.path() + "/away");
         std::filesystem::create_directory(taken.path);
         chmod(taken.path.c_str(), 0700);
       }}};
  for (const auto& [what, disturb] : all) {
    SCOPED_TRACE(what);
    const Taken taken;
    EXPECT_EQ(*taken.directory->Hold(), "");
    disturb(taken);
    const auto told = taken.directory->Hold();
    ASSERT_TRUE(told.ok()) << told.status();
    EXPECT_THAT(*told, HasSubstr(what));
    EXPECT_EQ(*taken.directory->Hold(), "") << "it is told once";
    EXPECT_TRUE(taken.IsKept());
    EXPECT_EQ(ModeOf(taken.path), 0700U);
    EXPECT_EQ(ModeOf(taken.lock), 0600U);
    EXPECT_THAT(Message(StateDirectory::Take(taken.path, "x").status()),
                HasSubstr("serves on tcp://here:1"));
    const std::string away = taken.folder.path() + "/away";
    if (std::filesystem::exists(away)) {
      EXPECT_FALSE(StateDirectory::Take(away, "x").ok()) << "this process has its files open";
    }
  }
}

TEST(StateDirectory, IsTakenWhateverOtherNamesItsLockHas) {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/state";
  const std::string other = folder.path() + "/other";
  for (int i = 0; i < 2; ++i) {
    const auto taken = StateDirectory::Take(path, "tcp://here:1");
    ASSERT_TRUE(taken.ok()) << taken.status();
    if (i > 0) break;
    std::filesystem::create_hard_link(path + "/lock", other);
    EXPECT_EQ(*(*taken)->Hold(), "");
    EXPECT_THAT(Message(StateDirectory::Take(path, "x").status()), HasSubstr("tcp://here:1"));
  }
  std::filesystem::remove(path + "/lock");
  std::ofstream(other) << "precious";
  std::filesystem::create_hard_link(other, path + "/lock");
  EXPECT_TRUE(StateDirectory::Take(path, "x").ok());
  std::string left;
  std::getline(std::ifstream(other), left);
  EXPECT_EQ(left, "precious");
}

TEST(StateDirectory, SaysWhatKeepsTheNextServerFromStarting) {
  const Taken taken;
  EXPECT_EQ(*taken.directory->Hold(), "");
  const std::string link = taken.path + "/kv/here/records";
  std::filesystem::create_directories(taken.path + "/kv/here");
  std::filesystem::create_symlink("/", link);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  std::string told;
  while (told.empty() && std::chrono::steady_clock::now() < end) told = *taken.directory->Hold();
  EXPECT_THAT(told, HasSubstr(link + ": it is a symbolic link"));
  EXPECT_THAT(told, HasSubstr("no server starts here"));
  const auto while_it_is_told = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  while (std::chrono::steady_clock::now() < while_it_is_told) {
    ASSERT_EQ(*taken.directory->Hold(), "") << "it is told once";
  }
}

TEST(StateDirectory, ThatWasMovedAwayIsWaitedFor) {
  const Taken taken;
  const std::string away = taken.folder.path() + "/away";
  std::filesystem::rename(taken.path, away);
  for (int i = 0; i < 2; ++i) {
    const auto told = taken.directory->Hold();
    EXPECT_TRUE(absl::IsUnavailable(told.status())) << told.status();
    EXPECT_THAT(Message(told.status()), HasSubstr("put it back"));
    EXPECT_FALSE(std::filesystem::exists(taken.path));
  }
  std::filesystem::rename(away, taken.path);
  EXPECT_EQ(*taken.directory->Hold(), "");
  EXPECT_TRUE(taken.IsKept());
}

TEST(StateDirectory, ThatAnotherHasIsNotTakenFromIt) {
  const Taken taken;
  std::filesystem::remove(taken.lock);
  {
    const auto another = StateDirectory::Take(taken.path, "tcp://there:2");
    ASSERT_TRUE(another.ok()) << another.status();
    const auto told = taken.directory->Hold();
    EXPECT_TRUE(absl::IsFailedPrecondition(told.status())) << told.status();
    EXPECT_THAT(Message(told.status()), HasSubstr("tcp://there:2"));
    EXPECT_EQ(*(*another)->Hold(), "");
  }
  EXPECT_THAT(*taken.directory->Hold(), HasSubstr("it is locked again"));
  EXPECT_TRUE(taken.IsKept());
  std::filesystem::remove(taken.lock);
  std::filesystem::create_directory(taken.lock);
  EXPECT_THAT(Message(taken.directory->Hold().status()), HasSubstr("it is a folder"));
  std::filesystem::remove(taken.lock);
  chmod(taken.path.c_str(), 0755);
  EXPECT_THAT(Message(taken.directory->Hold().status()), HasSubstr("chmod 700"));
}

TEST(StateDirectory, SaysWhatIsWrongWithADirectory) {
  const TemporaryDirectory folder;
  const std::string open_to_all = folder.path() + "/open";
  std::filesystem::create_directory(open_to_all);
  chmod(open_to_all.c_str(), 0755);
  EXPECT_THAT(Message(StateDirectory::Take(open_to_all, "x").status()), HasSubstr("chmod 700"));
  EXPECT_THAT(Message(StateDirectory::Take("/dev/null", "x").status()),
              HasSubstr("--state /dev/null: it is a device, and no folder"));
}

}  // namespace
}  // namespace tandem::launcher
