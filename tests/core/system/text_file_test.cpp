#include "core/system/text_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <thread>

#include "tests/support/temporary_directory.h"

namespace tandem {
namespace {

using ::testing::HasSubstr;

TEST(TextFile, GivesAllBytes) {
  const testing::TemporaryDirectory folder;
  const std::string path = folder.path() + "/text";
  for (const size_t size : {size_t{0}, size_t{1}, size_t{65536}, size_t{300'000}}) {
    const std::string text(size, 'x');
    std::ofstream(path) << text;
    EXPECT_EQ(ReadTextFile(path).value(), text);
  }
  EXPECT_EQ(ReadTextFile(path, 300'000).value().size(), 300'000U);
  EXPECT_THAT(Message(ReadTextFile(path, 299'999).status()), HasSubstr("more than"));
}

TEST(TextFile, SaysWhyItCannotBeRead) {
  const auto why = [](const std::string& path) {
    const auto read = ReadTextFile(path);
    EXPECT_TRUE(absl::IsInvalidArgument(read.status())) << path;
    return Message(read.status());
  };
  EXPECT_THAT(why("/tmp"), HasSubstr("/tmp: cannot be read: Is a directory"));
  EXPECT_THAT(why("/no/such/file"), HasSubstr("/no/such/file: cannot be read: No such file"));
  EXPECT_THAT(why("/dev/zero"), HasSubstr("/dev/zero: it has more than 64 MiB, or no end"));
}

TEST(TextFile, WaitsForTheWriterOfAPipe) {
  const testing::TemporaryDirectory folder;
  const std::string path = folder.path() + "/pipe";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  std::thread writer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    std::ofstream pipe(path);
    pipe << "first " << std::flush;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    pipe << "second";
  });
  EXPECT_EQ(ReadTextFile(path).value(), "first second");
  writer.join();
}

}  // namespace
}  // namespace tandem
