#include "kv_store/journal/database_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/db.h>

#include <algorithm>
#include <filesystem>

#include "tests/support/temporary_directory.h"

namespace tandem::kv_store {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

/// A database whose log and tables change while it is watched.
class DatabaseWatchTest : public ::testing::Test {
 protected:
  DatabaseWatchTest() {
    rocksdb::Options options;
    options.create_if_missing = true;
    rocksdb::DB* opened = nullptr;
    EXPECT_TRUE(rocksdb::DB::Open(options, folder_, &opened).ok());
    db_.reset(opened);
    watch_.emplace(folder_, *db_);
  }

  void Put(const std::string& key) {
    ASSERT_TRUE(db_->Put(rocksdb::WriteOptions(), key, std::string(1000, 'x')).ok());
  }
  /// A new log, and a new table.
  void Roll() { ASSERT_TRUE(db_->Flush(rocksdb::FlushOptions()).ok()); }
  /// The newest file of a kind.
  std::string Newest(const std::string& ending) const {
    std::string newest;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      if (entry.path().extension() == ending) newest = std::max(newest, entry.path().string());
    }
    return newest;
  }
  /// Puts a copy in the place of a file, in one of two ways.
  void Replace(const std::string& path, bool keeps_the_old_one) {
    const std::string beside = temporary_.path() + "/beside";
    if (keeps_the_old_one) {
      fs::rename(path, beside);
      fs::copy(beside, path);
    } else {
      fs::copy(path, beside);
      fs::rename(beside, path);
    }
  }

  const testing::TemporaryDirectory temporary_;
  const std::string folder_ = temporary_.path() + "/database";
  std::unique_ptr<rocksdb::DB> db_;
  std::optional<DatabaseWatch> watch_;
};

TEST_F(DatabaseWatchTest, GoesWithLogsAndTablesThatTheDatabaseMakes) {
  for (int i = 0; i < 20; ++i) {
    Put(std::to_string(i));
    EXPECT_TRUE(watch_->Check(*db_).ok()) << watch_->Check(*db_);
    if (i % 3 == 0) Roll();
    EXPECT_TRUE(watch_->Check(*db_).ok()) << watch_->Check(*db_);
  }
  ASSERT_TRUE(db_->CompactRange(rocksdb::CompactRangeOptions(), nullptr, nullptr).ok());
  EXPECT_TRUE(watch_->Check(*db_).ok()) << watch_->Check(*db_);
}

TEST_F(DatabaseWatchTest, ANewFileThatIsReplacedBeforeItsFirstLookIsNoticed) {
  for (const char* ending : {".log", ".sst"}) {
    for (const bool keeps_the_old_one : {false, true}) {
      Put("a");
      Roll();
      ASSERT_TRUE(watch_->Check(*db_).ok());
      Put("b");
      Roll();
      const std::string path = Newest(ending);
      Replace(path, keeps_the_old_one);
      const absl::Status status = watch_->Check(*db_);
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(path + " was replaced"));
      // It stays so.
      EXPECT_FALSE(watch_->Check(*db_).ok());
      db_.reset();
      fs::remove_all(folder_);
      fs::remove(temporary_.path() + "/beside");
      rocksdb::Options options;
      options.create_if_missing = true;
      rocksdb::DB* opened = nullptr;
      ASSERT_TRUE(rocksdb::DB::Open(options, folder_, &opened).ok());
      db_.reset(opened);
      watch_.emplace(folder_, *db_);
    }
  }
}

}  // namespace
}  // namespace tandem::kv_store
