#include "core/base/temporary_folder.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

namespace tandem {
namespace {

namespace fs = std::filesystem;

TEST(TemporaryFolder, GoesWithItsOwnerAndNotBefore) {
  const std::string place = ::testing::TempDir();
  std::string path;
  {
    const auto folder = TemporaryFolder::Make("job", {place});
    ASSERT_TRUE(folder.ok()) << folder.status();
    path = folder->path();
    std::ofstream(path + "/file") << "x";
    RemoveAbandoned(place);
    EXPECT_TRUE(fs::exists(path + "/file"));
    EXPECT_EQ(fs::status(path).permissions(), fs::perms::owner_all);
  }
  EXPECT_FALSE(fs::exists(path));
}

TEST(TemporaryFolder, WhatDeadOwnersLeftIsRemovedAndNothingElse) {
  const std::string place = ::testing::TempDir() + "/abandoned";
  fs::remove_all(place);
  for (const char* left :
       {"tandem-job-abcdef", "tandem-rank-abcdef", "tandem-hosts-abcdef", "tandem-chat-abcdef"}) {
    fs::create_directories(place + "/" + left + "/sub");
  }
  std::ofstream(place + "/tandem-0123456789abcdef") << "x";
  const std::vector<std::string> others = {"tandem-job-abcdefg", "tandem-other-abcdef",
                                           "tandem-job", "job-abcdef"};
  for (const std::string& other : others) fs::create_directories(place + "/" + other);
  fs::create_symlink(place + "/tandem-other-abcdef", place + "/tandem-job-123456");
  std::ofstream(place + "/tandem-fedcba9876543210") << "x";
  const int held = open((place + "/tandem-fedcba9876543210").c_str(), O_RDONLY);
  ASSERT_EQ(flock(held, LOCK_SH), 0);

  RemoveAbandoned(place);
  std::set<std::string> there;
  for (const auto& entry : fs::directory_iterator(place)) there.insert(entry.path().filename());
  std::set<std::string> wanted(others.begin(), others.end());
  wanted.insert({"tandem-job-123456", "tandem-fedcba9876543210"});
  EXPECT_EQ(there, wanted);
  close(held);
}

TEST(TemporaryFolder, TakesTheFirstPlaceWithRoom) {
  const std::string place = ::testing::TempDir();
  const auto folder = TemporaryFolder::Make("rank", {"/no/such/place", place}, 4096);
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_TRUE(folder->path().starts_with(place + "/tandem-rank-"));
  const auto none = TemporaryFolder::Make("rank", {"/no/such/place", place}, int64_t{1} << 60);
  EXPECT_EQ(none.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(Message(none.status()).find("/no/such/place: No such file"), std::string::npos);
  EXPECT_NE(Message(none.status()).find(place + ": No space left"), std::string::npos);
}

}  // namespace
}  // namespace tandem
