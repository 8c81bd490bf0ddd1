#include "kv_store/weights/weight_folders.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "tests/support/temporary_directory.h"

namespace tandem::kv_store {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::TemporaryDirectory;

/// Two agents' directories, and a place that stands for /dev/shm.
class WeightFoldersTest : public ::testing::Test {
 protected:
  WeightFoldersTest() {
    for (const std::string& path : {shm_, agent_, other_agent_}) {
      fs::create_directories(path);
      fs::permissions(path, fs::perms::owner_all);
    }
  }

  std::unique_ptr<OwnedWeightFolders> Own(
      const std::string& agent, std::chrono::milliseconds patience = std::chrono::minutes(10)) {
    return OwnedWeightFolders::Make(agent, shm_, patience);
  }
  static bool Goes(const std::string& path) {
    for (int i = 0; i < 2000 && fs::exists(path); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return !fs::exists(path);
  }
  WeightFolders FoldersOf(const std::string& agent) { return *WeightFoldersOf(agent, shm_); }

  static std::string Put(const std::string& folder, const std::string& name, int64_t bytes = 1,
                         int age = 0) {
    const std::string path = folder + "/" + name;
    std::ofstream(path) << std::string(static_cast<size_t>(bytes), 'x');
    fs::last_write_time(path, fs::file_time_type::clock::now() - std::chrono::hours(age));
    return path;
  }
  /// As a rank that uses the file.
  static int Hold(const std::string& path) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    EXPECT_EQ(flock(file, LOCK_SH | LOCK_NB), 0);
    return file;
  }

  const TemporaryDirectory directory_;
  const std::string shm_ = directory_.path() + "/shm";
  const std::string agent_ = directory_.path() + "/a/kv/host";
  const std::string other_agent_ = directory_.path() + "/b/kv/host";
};

TEST_F(WeightFoldersTest, AreTheirOwnersAlone) {
  const WeightFolders folders = FoldersOf(agent_);
  EXPECT_NE(folders.memory, FoldersOf(other_agent_).memory);
  EXPECT_THAT(folders.memory, HasSubstr(shm_ + "/tandem-weights-"));
  EXPECT_TRUE(absl::IsNotFound(CheckWeightFolder(folders.memory)));
  const auto owned = Own(agent_);
  for (const std::string& folder : {folders.memory, folders.disk}) {
    EXPECT_TRUE(CheckWeightFolder(folder).ok());
    ASSERT_EQ(chmod(folder.c_str(), 0755), 0);
    EXPECT_TRUE(absl::IsFailedPrecondition(CheckWeightFolder(folder)));
  }
  const std::string link = shm_ + "/link";
  fs::create_directory_symlink(folders.disk, link);
  EXPECT_TRUE(absl::IsFailedPrecondition(CheckWeightFolder(link)));
}

TEST_F(WeightFoldersTest, GoWithTheirOwner) {
  const WeightFolders folders = FoldersOf(agent_);
  auto owned = Own(agent_);
  Put(folders.memory, "a");
  Put(folders.disk, "b");
  const int held = Hold(folders.memory + "/a");
  owned.reset();
  EXPECT_FALSE(fs::exists(folders.memory));
  EXPECT_FALSE(fs::exists(folders.disk));
  char byte = 0;
  EXPECT_EQ(read(held, &byte, 1), 1);
  close(held);
  EXPECT_TRUE(fs::is_empty(shm_));
}

TEST_F(WeightFoldersTest, OfADeadOwnerAreTheNextOnes) {
  const WeightFolders folders = FoldersOf(agent_);
  fs::create_directories(folders.memory);
  fs::create_directories(folders.disk);
  for (const std::string& folder : {folders.memory, folders.disk}) {
    fs::permissions(folder, fs::perms::owner_all);
    Put(folder, "whole");
    Put(folder, ".unfinished-abc");
  }
  const auto owned = Own(agent_);
  for (const std::string& folder : {folders.memory, folders.disk}) {
    EXPECT_TRUE(fs::exists(folder + "/whole"));
    EXPECT_FALSE(fs::exists(folder + "/.unfinished-abc"));
  }
}

TEST_F(WeightFoldersTest, OfOtherDeadOwnersGoUnlessARankUsesThem) {
  const std::string dead = shm_ + "/tandem-weights-00000000000000aa";
  const std::string used = shm_ + "/tandem-weights-00000000000000bb";
  const std::string foreign = shm_ + "/something-else";
  for (const std::string& folder : {dead, used, foreign}) {
    fs::create_directories(folder);
    Put(folder, "file");
  }
  const int held = Hold(used + "/file");
  const auto other = Own(other_agent_);
  Put(FoldersOf(other_agent_).memory, "file");
  constexpr std::chrono::milliseconds kShort{20};
  auto owned = Own(agent_, kShort);
  EXPECT_TRUE(Goes(dead));
  EXPECT_TRUE(fs::exists(used + "/file"));
  EXPECT_TRUE(fs::exists(foreign + "/file"));
  EXPECT_TRUE(fs::exists(FoldersOf(other_agent_).memory + "/file"));
  close(held);
  owned.reset();
  owned = Own(agent_, kShort);
  EXPECT_TRUE(Goes(used));
}

TEST_F(WeightFoldersTest, OfDeadOwnersWaitForTheNextOnes) {
  const std::string dead = FoldersOf(agent_).memory;
  fs::create_directories(dead);
  fs::permissions(dead, fs::perms::owner_all);
  Put(dead, "file");
  constexpr std::chrono::milliseconds kPatience{200};
  auto other = Own(other_agent_, kPatience);
  EXPECT_TRUE(fs::exists(dead + "/file"));
  const auto owned = Own(agent_);
  std::this_thread::sleep_for(2 * kPatience);
  EXPECT_TRUE(fs::exists(dead + "/file")) << "its owner came in time";
  other.reset();  // does not wait for its patience to end
}

TEST_F(WeightFoldersTest, AreNotTakenFromAnotherUserOrALivingOwner) {
  const WeightFolders folders = FoldersOf(agent_);
  {
    const auto owned = Own(agent_);
    Put(folders.memory, "a");
    Own(agent_).reset();  // finds it locked
    EXPECT_TRUE(fs::exists(folders.memory + "/a"));
  }
  if (geteuid() != 0) GTEST_SKIP() << "only root can make another user's folder";
  fs::create_directories(folders.memory);
  fs::permissions(folders.memory, fs::perms::owner_all);
  ASSERT_EQ(chown(folders.memory.c_str(), 65534, 65534), 0);
  Own(agent_).reset();
  EXPECT_TRUE(fs::exists(folders.memory));
}

TEST_F(WeightFoldersTest, StayWhereTheDirectoryIsAnothersByThen) {
  auto owned = Own(agent_);
  fs::rename(agent_, agent_ + ".old");
  fs::create_directories(agent_);
  const auto next = Own(agent_);
  Put(FoldersOf(agent_).disk, "a");
  owned.reset();
  EXPECT_TRUE(fs::exists(FoldersOf(agent_).disk + "/a"));
}

TEST_F(WeightFoldersTest, NamesTellModelsAndShards) {
  const std::string name = WeightFileName("model", "shard");
  EXPECT_EQ(name, WeightFileName("model", "shard"));
  EXPECT_EQ(name.substr(0, 16), WeightFileName("model", "other").substr(0, 16));
  EXPECT_NE(name, WeightFileName("model", "other"));
  EXPECT_NE(name.substr(0, 16), WeightFileName("other", "shard").substr(0, 16));
}

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kPlenty = int64_t{1} << 50;

/// Files of 10 MiB in a file system of 144 MiB, of which 64 stay free.
class WeightRoomTest : public WeightFoldersTest {
 protected:
  void SetUp() override {
    if (mount("tandem", shm_.c_str(), "tmpfs", 0, "size=144m,mode=0700") != 0) {
      GTEST_SKIP() << "only root may mount a small disk";
    }
    mounted_ = true;
    owned_ = Own(agent_);
    folders_ = FoldersOf(agent_);
  }
  void TearDown() override {
    owned_.reset();
    if (mounted_) umount2(shm_.c_str(), MNT_DETACH);
  }

  absl::Status MakeRoom(const std::vector<std::string>& names, int64_t each,
                        int64_t available = kPlenty) {
    return MakeRoomForWeights(folders_, folders_.memory,
                              {.names = names,
                               .bytes = std::vector<int64_t>(names.size(), each),
                               .available = available});
  }
  bool Has(const std::string& name) const { return fs::exists(folders_.memory + "/" + name); }

  bool mounted_ = false;
  std::unique_ptr<OwnedWeightFolders> owned_;
  WeightFolders folders_;
  const std::string model_ = WeightFileName("model", "0").substr(0, 17);
};

TEST_F(WeightRoomTest, IsThereOrIsNot) {
  EXPECT_TRUE(MakeRoom({model_ + "a", model_ + "b"}, 40 * kMiB).ok());
  const absl::Status none = MakeRoom({model_ + "a", model_ + "b"}, 41 * kMiB);
  EXPECT_TRUE(absl::IsResourceExhausted(none)) << none;
  EXPECT_THAT(Message(none), HasSubstr("82.0 MiB"));
  // What is there already takes no room; memory has to be free, too.
  Put(folders_.memory, model_ + "a", 41 * kMiB);
  EXPECT_TRUE(MakeRoom({model_ + "a", model_ + "b"}, 39 * kMiB).ok());
  const std::vector<std::string> both = {model_ + "a", model_ + "b"};
  EXPECT_TRUE(absl::IsResourceExhausted(MakeRoom(both, 10 * kMiB, 73 * kMiB)));
  EXPECT_TRUE(MakeRoom(both, 10 * kMiB, 75 * kMiB).ok());
}

TEST_F(WeightRoomTest, IsMadeOfOtherModelsFirst) {
  Put(folders_.memory, WeightFileName("other", "a"), kMiB);
  const std::string used = Put(folders_.memory, WeightFileName("other", "b"), kMiB);
  Put(folders_.memory, model_ + "old", kMiB, 9);
  const int held = Hold(used);
  EXPECT_TRUE(MakeRoom({model_ + "a"}, kMiB).ok());
  EXPECT_FALSE(Has(WeightFileName("other", "a")));
  EXPECT_TRUE(Has(WeightFileName("other", "b")));
  EXPECT_TRUE(Has(model_ + "old"));
  close(held);
}

TEST_F(WeightRoomTest, IsMadeOfTheLongestUnusedShards) {
  Put(folders_.memory, model_ + "new", 10 * kMiB, 1);
  Put(folders_.memory, model_ + "old", 10 * kMiB, 8);
  const std::string oldest = Put(folders_.memory, model_ + "oldest", 10 * kMiB, 9);
  Put(folders_.memory, model_ + "wanted", 10 * kMiB, 10);
  const int held = Hold(oldest);
  EXPECT_TRUE(MakeRoom({model_ + "wanted", model_ + "a"}, 45 * kMiB).ok());
  EXPECT_TRUE(Has(model_ + "new"));
  EXPECT_FALSE(Has(model_ + "old"));
  EXPECT_TRUE(Has(model_ + "oldest"));
  EXPECT_TRUE(Has(model_ + "wanted"));
  EXPECT_TRUE(MakeRoom({model_ + "wanted", model_ + "a"}, 55 * kMiB).ok());
  EXPECT_FALSE(Has(model_ + "new"));
  // Nobody's memory is made free by what its users keep.
  EXPECT_TRUE(absl::IsResourceExhausted(MakeRoom({model_ + "wanted", model_ + "a"}, 70 * kMiB)));
  EXPECT_TRUE(Has(model_ + "oldest"));
  close(held);
}

TEST_F(WeightRoomTest, IsMadeOfWhatDeadOwnersLeft) {
  const std::string dead = FoldersOf(other_agent_).memory;
  fs::create_directories(dead);
  Put(dead, "file", 40 * kMiB);
  EXPECT_TRUE(MakeRoom({model_ + "a"}, 30 * kMiB).ok());
  EXPECT_TRUE(fs::exists(dead + "/file"));
  const int held = Hold(dead + "/file");
  EXPECT_TRUE(absl::IsResourceExhausted(MakeRoom({model_ + "a"}, 60 * kMiB)));
  close(held);
  EXPECT_TRUE(MakeRoom({model_ + "a"}, 60 * kMiB, 125 * kMiB).ok());
  EXPECT_FALSE(fs::exists(dead));
}

TEST_F(WeightFoldersTest, WithoutAnOwnerThereIsNoRoom) {
  const WeightFolders folders = FoldersOf(agent_);
  EXPECT_TRUE(absl::IsNotFound(
      MakeRoomForWeights(folders, folders.memory, {.names = {"a"}, .bytes = {1}})));
}

}  // namespace
}  // namespace tandem::kv_store
