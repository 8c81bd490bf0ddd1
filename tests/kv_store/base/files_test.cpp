#include "kv_store/base/files.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "gtest/gtest.h"
#include "kv_store/base/hex.h"
#include "kv_store/base/parts.h"
#include "tests/support/temporary_directory.h"

namespace tandem::kv_store {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::TemporaryDirectory;

std::vector<std::string> NamesIn(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    names.push_back(entry.path().filename());
  }
  return names;
}

TEST(WholeFile, IsThereOnceItIsFinished) {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/file";
  for (const std::string text : {"first", "second"}) {
    {
      const auto file = WholeFile::Create(path);
      ASSERT_TRUE(file.ok()) << file.status();
      ASSERT_TRUE((*file)->Write(std::as_bytes(std::span(text))).ok());
    }
    EXPECT_NE(ReadSmallFile(path).value_or(""), text) << "what was not finished is not there";
    ASSERT_TRUE(WriteWholeFile(path, text).ok());
    EXPECT_EQ(ReadSmallFile(path).value(), text);
    EXPECT_THAT(NamesIn(folder.path()), ElementsAre("file"));
  }
  struct stat facts {};
  ASSERT_EQ(stat(path.c_str(), &facts), 0);
  EXPECT_EQ(facts.st_mode & 07777U, 0600U);
  EXPECT_TRUE(absl::IsUnavailable(WholeFile::Create(folder.path() + "/no/folder/file").status()));
}

TEST(WholeFile, MayLeaveWhatIsThere) {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/file";
  for (const char* text : {"first", "second"}) {
    ASSERT_TRUE(WriteWholeFile(path, text, /*sync=*/true, WholeFile::Before::kKeep).ok());
  }
  EXPECT_EQ(ReadSmallFile(path).value(), "first");
  EXPECT_THAT(NamesIn(folder.path()), ElementsAre("file"));
}

TEST(SmallFile, IsBoundedAndASecretIsItsOwners) {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/file";
  EXPECT_TRUE(absl::IsNotFound(ReadSmallFile(path).status()));
  EXPECT_TRUE(absl::IsUnavailable(ReadSmallFile(folder.path()).status()));
  for (const size_t size : {0, 1, 4096}) {
    std::ofstream(path) << std::string(size, 'x');
    EXPECT_EQ(ReadSmallFile(path).value().size(), size);
  }
  std::ofstream(path) << std::string(4097, 'x');
  EXPECT_TRUE(absl::IsDataLoss(ReadSmallFile(path).status()));
  std::ofstream(path) << "secret";
  chmod(path.c_str(), 0604);
  EXPECT_TRUE(ReadSmallFile(path).ok());
  EXPECT_THAT(Message(ReadSmallFile(path, /*secret=*/true).status()), HasSubstr("chmod 600"));
  chmod(path.c_str(), 0400);
  EXPECT_EQ(ReadSmallFile(path, /*secret=*/true).value(), "secret");
  const std::string link = folder.path() + "/link";
  ASSERT_EQ(symlink(path.c_str(), link.c_str()), 0);
  EXPECT_EQ(ReadSmallFile(link, /*secret=*/true).value(), "secret");
  EXPECT_TRUE(absl::IsUnavailable(ReadSmallFile(link).status()));
}

TEST(OwnFile, IsNotWrittenUnderAnotherName) {
  const TemporaryDirectory folder;
  const std::string victim = folder.path() + "/victim";
  const std::string path = folder.path() + "/lock";
  std::ofstream(victim) << "precious";
  ASSERT_EQ(link(victim.c_str(), path.c_str()), 0);
  for (const int flags : {O_RDWR | O_CREAT, O_WRONLY | O_APPEND}) {
    const auto opened = OpenOwnFile(path, flags);
    EXPECT_TRUE(absl::IsFailedPrecondition(opened.status()));
    EXPECT_THAT(Message(opened.status()), HasSubstr("hard link"));
  }
  const auto read = OpenOwnFile(path, O_RDONLY);
  ASSERT_TRUE(read.ok()) << read.status();
  close(*read);
  ASSERT_EQ(unlink(victim.c_str()), 0);
  const auto alone = OpenOwnFile(path, O_RDWR);
  ASSERT_TRUE(alone.ok()) << alone.status();
  close(*alone);
}

TEST(Files, SpaceIsThatOfTheFolderThatIsThere) {
  const TemporaryDirectory folder;
  EXPECT_GT(FreeSpaceAt(folder.path() + "/not/there/yet").bytes, 0);
  EXPECT_GT(FreeSpaceAt(folder.path()).files, 0);
  EXPECT_EQ(FreeSpaceAt("/proc/nothing").bytes, FreeSpace{}.bytes) << "it does not say";
}

TEST(Files, AreRenamedAndRemoved) {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/a";
  ASSERT_TRUE(WriteWholeFile(path, "text").ok());
  EXPECT_EQ(FreeName(path, "aside"), path + ".aside-1");
  ASSERT_TRUE(Rename(path, FreeName(path, "aside")).ok());
  EXPECT_FALSE(Exists(path));
  EXPECT_EQ(FreeName(path, "aside"), path + ".aside-2");
  EXPECT_FALSE(Rename(path, path + "b").ok());
  EXPECT_TRUE(Remove(path + ".aside-1").ok());
  EXPECT_TRUE(Remove(path + ".aside-1").ok()) << "nothing is there";
  EXPECT_THAT(NamesIn(folder.path()), IsEmpty());
  EXPECT_TRUE(SyncFolder(folder.path()).ok());
  EXPECT_FALSE(SyncFolder(path).ok());
  EXPECT_EQ(FolderOf("/a/b"), "/a");
  EXPECT_EQ(FolderOf("b"), ".");
}

TEST(Hex, GoesThereAndBack) {
  const std::array<uint8_t, 3> bytes = {0, 0x1f, 0xa0};
  EXPECT_EQ(Hex(bytes), "001fa0");
  EXPECT_EQ(UnhexArray<3>("001fA0"), bytes);
  for (const char* wrong : {"", "0", "001fa", "001fa00", "001fg0", "001fa0 ", "001fa000"}) {
    EXPECT_EQ(UnhexArray<3>(wrong), std::nullopt) << wrong;
  }
  EXPECT_EQ(Unhex(""), std::nullopt);
}

TEST(Parts, AreAllOfAListInOrder) {
  const std::vector<int> list = {1, 2, 3, 4, 5};
  const auto parts = PartsOf(std::span(list), 2);
  ASSERT_EQ(parts.size(), 3U);
  EXPECT_THAT(parts[0], ElementsAre(1, 2));
  EXPECT_THAT(parts[1], ElementsAre(3, 4));
  EXPECT_THAT(parts[2], ElementsAre(5));
  EXPECT_THAT(PartsOf(std::span(list), 5), ::testing::SizeIs(1));
  EXPECT_THAT(PartsOf(std::span<const int>(), 5), IsEmpty());
}

}  // namespace
}  // namespace tandem::kv_store
