#include "kv_store/journal/database_trial.h"

#include <gtest/gtest.h>
#include <rocksdb/db.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <csignal>
#include <latch>
#include <thread>

#include "kv_store/base/files.h"
#include "kv_store/journal/conversation_database.h"
#include "tests/support/temporary_directory.h"

namespace tandem::kv_store {
namespace {

using testing::TemporaryDirectory;

void MakeDatabase(const std::string& folder) {
  const auto db = OpenDatabase(folder);
  ASSERT_TRUE(db.ok()) << db.status();
  ASSERT_TRUE(WriteAll(**db, {{"a", "1"}, {"b", "2"}}).ok());
}

/// A fork of this process would wait for the lock that another thread has, for good.
TEST(DatabaseTrial, WaitsForNoLockOfAnotherThread) {
  const TemporaryDirectory temporary;
  const std::string folder = temporary.path() + "/conversations";
  MakeDatabase(folder);
  std::latch held(1);
  std::latch release(1);
  std::thread other([&] {
    spdlog::apply_all([&](const std::shared_ptr<spdlog::logger>&) {
      held.count_down();
      release.wait();
    });
  });
  held.wait();
  const auto begin = std::chrono::steady_clock::now();
  const auto read = ReadWhole(folder);
  const auto took = std::chrono::steady_clock::now() - begin;
  release.count_down();
  other.join();
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->records.size(), 2U);
  EXPECT_LT(took, std::chrono::seconds(30));
}

TEST(DatabaseTrial, IsDoneWhateverSignalsItsThreadBlocks) {
  const TemporaryDirectory temporary;
  const std::string folder = temporary.path() + "/conversations";
  MakeDatabase(folder);
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const auto read = ReadWhole(folder);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_FALSE(Exists(folder + ".trial"));
}

TEST(DatabaseTrial, WordsOfNoTrialAreNone) {
  const char* const plain[] = {"program", "serve", "model.gguf"};
  EXPECT_FALSE(RunDatabaseTrial(plain).has_value());
  EXPECT_FALSE(RunDatabaseTrial({}).has_value());
}

TEST(DatabaseTrial, OfAWayThatIsNotThereDoesNotSurvive) {
  EXPECT_FALSE(TrialSurvives({"no-such-way", "/nowhere"}));
  EXPECT_TRUE(TrialSurvives({"look", "/nowhere"}));
}

}  // namespace
}  // namespace tandem::kv_store
