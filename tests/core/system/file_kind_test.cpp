#include "core/system/file_kind.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "tests/support/temporary_directory.h"

namespace tandem {
namespace {

std::string_view KindAt(const std::string& path) {
  struct stat facts {};
  EXPECT_EQ(lstat(path.c_str(), &facts), 0) << path;
  return FileKindText(facts.st_mode);
}

TEST(FileKind, IsToldOfEveryKind) {
  const testing::TemporaryDirectory folder;
  const std::string at = folder.path() + "/";
  std::ofstream(at + "file") << "x";
  ASSERT_EQ(mkfifo((at + "pipe").c_str(), 0600), 0);
  ASSERT_EQ(symlink((at + "file").c_str(), (at + "link").c_str()), 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string socket_path = at + "socket";
  ASSERT_LT(socket_path.size(), sizeof(address.sun_path));
  std::memcpy(address.sun_path, socket_path.data(), socket_path.size());
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  ASSERT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  close(fd);
  EXPECT_EQ(KindAt(at + "file"), "a file");
  EXPECT_EQ(KindAt(folder.path()), "a folder");
  EXPECT_EQ(KindAt(at + "pipe"), "a pipe");
  EXPECT_EQ(KindAt(at + "link"), "a link");
  EXPECT_EQ(KindAt(socket_path), "a socket");
  EXPECT_EQ(KindAt("/dev/null"), "a device");
}

}  // namespace
}  // namespace tandem
