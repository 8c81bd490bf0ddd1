#include "launcher/job/rank_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/base/isa.h"
#include "core/cpu/cpu_operations.h"
#include "kv_store/weights/weight_folders.h"
#include "launcher/state/kv_agent.h"
#include "parallel/communicators/thread_communicator.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_model.h"

namespace tandem::launcher {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class RankWeightsTest : public ::testing::Test {
 protected:
  RankWeightsTest() {
    state_.directory = directory_.path();
    fs::create_directories(AgentPath(state_));
    file_ = *core::ModelFile::Open(model_.path());
    plan_.shards = {core::WholeModel(file_->config())};
  }

  /// As a rank that starts: how it came by its weights, and what its log says of them.
  struct Loaded {
    bool mapped;
    std::string text;
  };
  Loaded Load(const core::ModelFile& file) {
    const auto worlds = parallel::MakeThreadWorld(1, {});
    const auto weights = std::make_shared<RankWeights>();
    weights->ChoosePlace(state_, file, core::ActivationMode::kQ8, *worlds.front(), plan_);
    path_ = ChooseWeightsPlace(state_, file, core::ActivationMode::kQ8, plan_.shards, 0).path;
    core::CpuOperations operations(file.config(), plan_.shards.front(),
                                   {.isa = core::BestIsa(), .threads = 2, .packed = weights});
    const auto model = weights->Load(file, plan_.shards.front(), operations, nullptr);
    EXPECT_TRUE(model.ok()) << model.status();
    return {weights->mapped(), weights->Text(1)};
  }

  const testing::TemporaryDirectory directory_;
  const testing::TempFile model_ = testing::WriteTinyModel({});
  StateOptions state_;
  std::unique_ptr<core::ModelFile> file_;
  parallel::ShardPlan plan_;
  std::string path_;
};

TEST_F(RankWeightsTest, AreFoundAtTheNextStart) {
  const auto agent = kv_store::OwnedWeightFolders::Make(AgentPath(state_));
  Loaded loaded = Load(*file_);
  EXPECT_FALSE(loaded.mapped);
  EXPECT_THAT(loaded.text,
              StartsWith("the packed weights of its 1 rank (2.0 MiB) stay for the next "
                         "start in /dev/shm/tandem-weights-"));
  loaded = Load(*file_);
  EXPECT_TRUE(loaded.mapped);
  EXPECT_THAT(loaded.text, HasSubstr(" were found in /dev/shm/tandem-weights-"));
}

TEST_F(RankWeightsTest, AreReadWhereNothingIsKept) {
  Loaded loaded = Load(*file_);
  EXPECT_FALSE(loaded.mapped);
  EXPECT_THAT(loaded.text, StartsWith("packed weights are not kept for the next start: "));
  state_.keep_weights = "off";
  loaded = Load(*file_);
  EXPECT_FALSE(loaded.mapped);
  EXPECT_EQ(loaded.text, "");
}

TEST_F(RankWeightsTest, AreReadAnewWhereWhatIsKeptHasOtherMatrices) {
  const auto agent = kv_store::OwnedWeightFolders::Make(AgentPath(state_));
  Load(*file_);
  fs::remove(path_);
  {
    // What a program would have left that packs otherwise under the same key.
    const WeightsPlace place =
        ChooseWeightsPlace(state_, *file_, core::ActivationMode::kQ8, plan_.shards, 0);
    const auto weights = kv_store::KeptWeights::Open(
        {.path = place.path,
         .key = place.key,
         .matrices = place.matrices,
         .run = [](int64_t tasks, absl::FunctionRef<void(int64_t)> body) {
           for (int64_t task = 0; task < tasks; ++task) body(task);
         }});
    ASSERT_TRUE(weights.ok()) << weights.status();
    ASSERT_TRUE((*weights)->Take("something else", 64).ok());
    ASSERT_TRUE((*weights)->Finish().ok());
  }
  const Loaded loaded = Load(*file_);
  EXPECT_FALSE(loaded.mapped);
  EXPECT_FALSE(fs::exists(path_));
  EXPECT_FALSE(Load(*file_).mapped);
  EXPECT_TRUE(Load(*file_).mapped);
}

}  // namespace
}  // namespace tandem::launcher
