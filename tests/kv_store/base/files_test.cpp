#include "kv_store/base/files.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>

#include "gtest/gtest.h"
#include "kv_store/base/file_facts.h"
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

TEST(OwnLock, ThatHasAnotherNameGivesWayToOneOfItsOwn) {
  const TemporaryDirectory folder;
  const std::string victim = folder.path() + "/victim";
  const std::string path = folder.path() + "/lock";
  std::ofstream(victim) << "precious";
  ASSERT_EQ(link(victim.c_str(), path.c_str()), 0);
  const auto lock = TakeOwnLock(path);
  ASSERT_TRUE(lock.ok()) << lock.status();
  EXPECT_TRUE(lock->taken);
  ASSERT_EQ(write(lock->file, "mine", 4), 4);
  EXPECT_EQ(ReadSmallFile(victim).value(), "precious");
  EXPECT_EQ(ReadSmallFile(path).value(), "mine");
  EXPECT_EQ(FactsAt(path)->names, 1U);
  close(lock->file);
}

TEST(OwnLock, ThatSomebodyHasIsLeftWhateverNamesItHas) {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/lock";
  const auto first = TakeOwnLock(path);
  ASSERT_TRUE(first.ok() && first->taken) << first.status();
  ASSERT_EQ(write(first->file, "mine", 4), 4);
  for (const bool linked : {false, true}) {
    if (linked) {
      ASSERT_EQ(link(path.c_str(), (path + "2").c_str()), 0);
    }
    const auto second = TakeOwnLock(path);
    ASSERT_TRUE(second.ok()) << second.status();
    EXPECT_FALSE(second->taken);
    close(second->file);
    EXPECT_TRUE(FactsOfOpen(first->file, path)->IsSameFile(*FactsAt(path)));
  }
  close(first->file);
  const auto next = TakeOwnLock(path);
  ASSERT_TRUE(next.ok() && next->taken) << next.status();
  EXPECT_FALSE(FactsAt(path)->IsSameFile(*FactsAt(path + "2")));
  close(next->file);
}

TEST(OwnLog, IsNotAddedToUnderAnotherName) {
  const TemporaryDirectory folder;
  const std::string victim = folder.path() + "/victim";
  const std::string path = folder.path() + "/log";
  std::ofstream(victim) << "precious";
  ASSERT_EQ(link(victim.c_str(), path.c_str()), 0);
  for (int i = 0; i < 2; ++i) {
    const auto log = OpenOwnLog(path);
    ASSERT_TRUE(log.ok()) << log.status();
    ASSERT_EQ(write(*log, "line", 4), 4);
    close(*log);
  }
  EXPECT_EQ(ReadSmallFile(victim).value(), "precious");
  EXPECT_EQ(ReadSmallFile(path).value(), "lineline");
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

/// Somebody's own things, and where they are.
void PutInTheWay(const std::string& path, const std::string& kind) {
  std::filesystem::remove_all(path);
  if (kind == "folder") {
    std::filesystem::create_directory(path);
    std::ofstream(path + "/mine") << "mine";
  } else if (kind == "file") {
    std::ofstream(path) << "mine";
  } else if (kind == "pipe") {
    ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  } else if (kind == "dangling link") {
    ASSERT_EQ(symlink("/no/such/place", path.c_str()), 0);
  } else {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    ASSERT_LT(path.size(), sizeof(address.sun_path));
    std::copy(path.begin(), path.end(), address.sun_path);
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    ASSERT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    close(fd);
  }
}

TEST(MakeWay, PutsAsideWhatIsOfAnotherKind) {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/a";
  const std::map<std::string, FileKind> wanted = {
      {"file", FileKind::kFile}, {"folder", FileKind::kFolder}, {"socket", FileKind::kSocket}};
  EXPECT_EQ(MakeWay(path, FileKind::kFile, path).value(), "") << "nothing is there";
  int moved = 0;
  for (const auto& [name, kind] : wanted) {
    for (const std::string there : {"file", "folder", "pipe", "dangling link", "socket"}) {
      SCOPED_TRACE(fmt::format("{} in the place of {}", there, name));
      PutInTheWay(path, there);
      const auto told = MakeWay(path, kind, path);
      ASSERT_TRUE(told.ok()) << told.status();
      EXPECT_EQ(Exists(path), there == name);
      if (there == name) {
        EXPECT_EQ(*told, "");
        continue;
      }
      const std::string aside = fmt::format("{}.damaged-{}", path, ++moved);
      EXPECT_TRUE(Exists(aside));
      EXPECT_THAT(*told, HasSubstr(aside));
      EXPECT_TRUE(IsAside(aside));
      if (there == "folder") {
        EXPECT_EQ(ReadSmallFile(aside + "/mine").value(), "mine");
      }
    }
  }
  EXPECT_FALSE(IsAside("a"));
  EXPECT_FALSE(IsAside("a.damaged-"));
  EXPECT_FALSE(IsAside("a.damaged-1x"));
  EXPECT_FALSE(IsAside("peer-1"));
  EXPECT_TRUE(IsAside("a.aside-12"));
}

TEST(MakeWay, FollowsNoLinkAndLeavesOthersFilesAlone) {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/a";
  const std::string victim = folder.path() + "/victim";
  std::ofstream(victim) << "precious";
  chmod(victim.c_str(), 0400);
  ASSERT_EQ(symlink(victim.c_str(), path.c_str()), 0);
  for (const FileKind kind : {FileKind::kFile, FileKind::kFolder}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(MakeWay(path, kind)));
  }
  EXPECT_TRUE(Exists(path));
  struct stat facts {};
  ASSERT_EQ(stat(victim.c_str(), &facts), 0);
  EXPECT_EQ(facts.st_mode & 07777U, 0400U);
  if (geteuid() != 0) return;
  std::filesystem::remove(path);
  std::ofstream(path) << "theirs";
  ASSERT_EQ(chown(path.c_str(), 4321, -1), 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(MakeWay(path, FileKind::kFolder)));
  EXPECT_TRUE(Exists(path));
}

TEST(MakeWay, InAFolderOfFilesGoesBesideIt) {
  const TemporaryDirectory folder;
  const std::string database = folder.path() + "/database";
  std::filesystem::create_directory(database);
  std::ofstream(database + "/kept") << "ours";
  PutInTheWay(database + "/CURRENT", "folder");
  PutInTheWay(database + "/LOCK", "pipe");
  PutInTheWay(database + "/2.log", "dangling link");
  const auto told = MakeWayInFolder(database);
  ASSERT_TRUE(told.ok()) << told.status();
  EXPECT_THAT(NamesIn(database), ElementsAre("kept"));
  for (const char* name : {"CURRENT", "LOCK", "2.log"}) {
    const std::string aside = fmt::format("{}.{}.damaged-1", database, name);
    EXPECT_TRUE(Exists(aside));
    EXPECT_THAT(*told, HasSubstr(aside));
  }
  EXPECT_EQ(MakeWayInFolder(database).value(), "");
  EXPECT_EQ(MakeWayInFolder(folder.path() + "/nothing").value(), "");
}

/// As a user that has no rights beyond those of a file's mode.
bool AsSomebody(const std::string& folder, const std::function<bool()>& test) {
  constexpr uid_t kSomebody = 4321;
  const bool is_root = geteuid() == 0;
  if (is_root && chown(folder.c_str(), kSomebody, kSomebody) != 0) return false;
  const pid_t child = fork();
  if (child == 0) {
    if (is_root && (setgid(kSomebody) != 0 || setuid(kSomebody) != 0)) _exit(2);
    _exit(test() ? 0 : 1);
  }
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(MakeWay, OpensToTheOwnerWhatHeMayNotUse) {
  const TemporaryDirectory folder;
  const std::string path = folder.path();
  EXPECT_TRUE(AsSomebody(path, [&path] {
    std::filesystem::create_directory(path + "/folder");
    std::ofstream(path + "/folder/file") << "text";
    std::ofstream(path + "/lock") << "text";
    for (const char* name : {"/folder/file", "/folder", "/lock"}) chmod((path + name).c_str(), 0);
    const auto opened = MakeWay(path + "/folder", FileKind::kFolder, path + "/folder");
    const auto within = MakeWayInFolder(path + "/folder");
    const auto lock = OpenOwnFile(path + "/lock", O_RDWR);
    return opened.ok() && !opened->empty() && within.ok() && !within->empty() && lock.ok() &&
           ReadSmallFile(path + "/folder/file").value_or("") == "text";
  }));
}

TEST(OwnFile, SaysWhatIsInItsPlace) {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/a";
  for (const std::string kind : {"folder", "socket"}) {
    PutInTheWay(path, kind);
    const auto opened = OpenOwnFile(path, O_RDWR | O_CREAT);
    EXPECT_TRUE(absl::IsUnavailable(opened.status()));
    EXPECT_THAT(Message(opened.status()), HasSubstr("it is a " + kind + ", and no file"));
  }
  PutInTheWay(path, "pipe");
  EXPECT_TRUE(absl::IsFailedPrecondition(OpenOwnFile(path, O_RDWR).status()));
  EXPECT_TRUE(absl::IsUnavailable(ReadSmallFile(path).status())) << "and it is not waited for";
}

TEST(OwnTree, IsOursAndHasNoLinksToSomething) {
  const TemporaryDirectory folder;
  const std::string tree = folder.path() + "/tree";
  std::filesystem::create_directories(tree + "/in.damaged-1/deep");
  EXPECT_EQ(CheckOwnTree(folder.path() + "/nothing"), absl::OkStatus());
  PutInTheWay(tree + "/pipe", "pipe");
  PutInTheWay(tree + "/link", "dangling link");
  ASSERT_EQ(symlink("/etc", (tree + "/in.damaged-1/deep/link").c_str()), 0);
  EXPECT_EQ(CheckOwnTree(tree), absl::OkStatus()) << "what is aside is not used";
  std::filesystem::create_directory(tree + "/deep");
  ASSERT_EQ(symlink("/etc", (tree + "/deep/link").c_str()), 0);
  EXPECT_THAT(Message(CheckOwnTree(tree)), HasSubstr(tree + "/deep/link: it is a symbolic link"));
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
