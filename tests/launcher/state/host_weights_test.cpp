#include "launcher/state/host_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "kv_store/weights/kept_weights.h"
#include "kv_store/weights/weight_folders.h"
#include "launcher/state/kv_agent.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_model.h"

namespace tandem::launcher {
namespace {

namespace fs = std::filesystem;
using core::ActivationMode;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class HostWeightsTest : public ::testing::Test {
 protected:
  HostWeightsTest() {
    state_.directory = directory_.path();
    fs::create_directories(AgentPath(state_));
    file_ = OpenModelFile();
    shard_ = core::WholeModel(file_->config());
    half_ = shard_;
    half_.ffn_columns.count /= 2;
  }

  std::unique_ptr<core::ModelFile> OpenModelFile() const {
    return *core::ModelFile::Open(model_.path());
  }
  WeightsPlace Choose(const std::string& keep, ActivationMode mode = ActivationMode::kQ8) {
    state_.keep_weights = keep;
    return ChooseWeightsPlace(state_, *file_, mode, std::vector{half_, shard_}, 1);
  }
  void BeginAgent() { agent_ = kv_store::OwnedWeightFolders::Make(AgentPath(state_)); }

  const testing::TemporaryDirectory directory_;
  const testing::TempFile model_ = testing::WriteTinyModel({});
  StateOptions state_;
  std::unique_ptr<core::ModelFile> file_;
  core::Shard shard_, half_;
  std::unique_ptr<kv_store::OwnedWeightFolders> agent_;
};

TEST_F(HostWeightsTest, AreKeptWhereTheyMayBe) {
  BeginAgent();
  const auto folders = *kv_store::WeightFoldersOf(AgentPath(state_));
  const WeightsPlace automatic = Choose("auto");
  EXPECT_THAT(automatic.path, StartsWith(folders.memory + "/"));
  EXPECT_TRUE(automatic.in_memory);
  EXPECT_EQ(automatic.why_not, "");
  EXPECT_EQ(Choose("shm").path, automatic.path);
  const WeightsPlace disk = Choose("disk");
  EXPECT_THAT(disk.path, StartsWith(folders.disk + "/"));
  EXPECT_FALSE(disk.in_memory);
  EXPECT_EQ(disk.key, automatic.key);
  const WeightsPlace off = Choose("off");
  EXPECT_FALSE(off.kept());
  EXPECT_EQ(off.why_not, "");
  EXPECT_GE(
      automatic.host_bytes,
      2 * kv_store::KeptWeights::FileBytes(automatic.key, automatic.matrices) - (int64_t{2} << 20));
}

TEST_F(HostWeightsTest, AreKeptElsewhereWhereMemoryWillNotDo) {
  BeginAgent();
  const auto folders = *kv_store::WeightFoldersOf(AgentPath(state_));
  fs::permissions(folders.memory, fs::perms::all);
  EXPECT_THAT(Choose("auto").path, StartsWith(folders.disk + "/"));
  const WeightsPlace none = Choose("shm");
  EXPECT_FALSE(none.kept());
  EXPECT_THAT(none.why_not, HasSubstr(folders.memory + ": others may enter it"));
  fs::remove(folders.disk);
  const WeightsPlace neither = Choose("auto");
  EXPECT_FALSE(neither.kept());
  EXPECT_THAT(neither.why_not, HasSubstr(folders.memory));
  EXPECT_THAT(neither.why_not, HasSubstr(folders.disk));
}

TEST_F(HostWeightsTest, AreNotKeptWithoutAnAgent) {
  EXPECT_FALSE(Choose("auto").kept());
  EXPECT_NE(Choose("auto").why_not, "");
  fs::remove_all(AgentPath(state_));
  EXPECT_FALSE(Choose("auto").kept());
  EXPECT_NE(Choose("auto").why_not, "");
}

TEST_F(HostWeightsTest, AreOfOneFileShardAndArithmetic) {
  BeginAgent();
  std::set<std::string> paths;
  std::set<std::string> keys;
  const auto add = [&](const WeightsPlace& place) {
    paths.insert(place.path);
    keys.insert(place.key);
  };
  add(Choose("auto"));
  add(Choose("auto"));
  EXPECT_EQ(paths.size(), 1U);
  add(Choose("auto", ActivationMode::kF32));
  add(ChooseWeightsPlace(state_, *file_, ActivationMode::kQ8, std::vector{half_, shard_}, 0));
  EXPECT_EQ(paths.size(), 3U);
  // Written to: the fingerprint looks at few of its bytes, and does not see it.
  const uint64_t fingerprint = file_->fingerprint();
  const auto size = static_cast<int64_t>(fs::file_size(model_.path()));
  {
    std::fstream bytes(model_.path(), std::ios::in | std::ios::out | std::ios::binary);
    bytes.seekp(size - 1);
    bytes.put('x');
  }
  file_ = OpenModelFile();
  EXPECT_EQ(file_->fingerprint(), fingerprint);
  add(Choose("auto"));
  EXPECT_EQ(paths.size(), 4U);
  // Another in its place, with the same bytes, size and time.
  const auto written = fs::last_write_time(model_.path());
  fs::copy_file(model_.path(), model_.path() + ".new");
  fs::last_write_time(model_.path() + ".new", written);
  fs::rename(model_.path() + ".new", model_.path());
  file_ = OpenModelFile();
  EXPECT_EQ(file_->fingerprint(), fingerprint);
  add(Choose("auto"));
  EXPECT_EQ(paths.size(), 5U);
  EXPECT_EQ(keys.size(), 5U);
}

}  // namespace
}  // namespace tandem::launcher
