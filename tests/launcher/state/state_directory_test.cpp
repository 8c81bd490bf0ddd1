#include "launcher/state/state_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

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
