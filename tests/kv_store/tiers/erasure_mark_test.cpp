#include "kv_store/tiers/erasure_mark.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "tests/support/temporary_directory.h"

namespace tandem::kv_store {
namespace {

namespace fs = std::filesystem;

struct Marked {
  Marked() { fs::create_directory(folder); }
  void CopyTo(const std::string& to) const { fs::copy(folder, to); }
  void PutBack(const std::string& from) const {
    fs::remove_all(folder);
    fs::copy(from, folder);
  }

  TemporaryDirectory directory;
  const std::string folder = directory.path() + "/records";
  const std::string outside = directory.path() + "/outside";
  const std::string copy = directory.path() + "/copy";
  const ErasureMark mark{folder, outside};
};

TEST(ErasureMark, KnowsNothingBeforeTheFirstErasure) {
  const Marked m;
  EXPECT_FALSE(m.mark.FolderIsOlder());
  EXPECT_TRUE(m.mark.Accept().ok());
  EXPECT_FALSE(fs::exists(m.outside));
  const ErasureMark none(m.folder, "");
  EXPECT_TRUE(none.Note().ok());
  EXPECT_FALSE(none.FolderIsOlder());
  EXPECT_TRUE(fs::is_empty(m.folder));
}

TEST(ErasureMark, KnowsAFolderOfBeforeTheLastErasure) {
  for (int before = 0; before < 3; ++before) {
    const Marked m;
    for (int i = 0; i < before; ++i) ASSERT_TRUE(m.mark.Note().ok());
    m.CopyTo(m.copy);
    EXPECT_FALSE(m.mark.FolderIsOlder());
    ASSERT_TRUE(m.mark.Note().ok());
    EXPECT_FALSE(m.mark.FolderIsOlder());
    m.PutBack(m.copy);
    EXPECT_TRUE(m.mark.FolderIsOlder()) << before;
    ASSERT_TRUE(m.mark.Accept().ok());
    EXPECT_FALSE(m.mark.FolderIsOlder());
    m.PutBack(m.copy);
    EXPECT_TRUE(m.mark.FolderIsOlder()) << before;
  }
}

TEST(ErasureMark, OfWhichTheEndWasNotWrittenLeavesTheFolderAsItIs) {
  const Marked m;
  ASSERT_TRUE(m.mark.Note().ok());
  m.CopyTo(m.copy);
  fs::create_directory(m.folder + "/erased.old");
  fs::rename(m.folder + "/erased", m.folder + "/erased.old/erased");
  fs::create_directory(m.folder + "/erased");  // where no file can be put
  EXPECT_FALSE(m.mark.Note().ok());
  m.PutBack(m.copy);
  EXPECT_TRUE(m.mark.FolderIsOlder()) << "its number could not be read when the new one was drawn";
  ASSERT_TRUE(m.mark.Accept().ok());
  EXPECT_FALSE(m.mark.FolderIsOlder());
}

TEST(ErasureMark, OfWhichTheFileOutsideIsRemovedCountsAsOlder) {
  const Marked m;
  ASSERT_TRUE(m.mark.Note().ok());
  m.CopyTo(m.copy);
  ASSERT_TRUE(m.mark.Note().ok());
  m.PutBack(m.copy);
  fs::remove(m.outside);
  EXPECT_TRUE(m.mark.FolderIsOlder());
  ASSERT_TRUE(m.mark.Accept().ok());
  EXPECT_FALSE(m.mark.FolderIsOlder());
  EXPECT_TRUE(fs::exists(m.outside));
}

TEST(ErasureMark, ThatIsDamagedCountsAsOlder) {
  const Marked m;
  ASSERT_TRUE(m.mark.Note().ok());
  for (const std::string& path : {m.outside, m.folder + "/erased"}) {
    for (const char* text : {"", "x", "0123456789abcdef0123456789abcdef"}) {
      std::ofstream(path) << text;
      EXPECT_TRUE(m.mark.FolderIsOlder()) << path << " " << text;
      ASSERT_TRUE(m.mark.Accept().ok());
      EXPECT_FALSE(m.mark.FolderIsOlder());
    }
  }
}

}  // namespace
}  // namespace tandem::kv_store
