#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "kv_store/tiers/disk_tier.h"
#include "tests/support/disk_image.h"
#include "tests/support/random.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tier_records.h"

/// Files of several times of a tier on disk, copied over each other.
namespace tandem::kv_store {
namespace {

namespace fs = std::filesystem;
using testing::BlockNamed;
using testing::KeysOf;
using testing::RecordOf;
using testing::SplitMix;
using testing::TemporaryDirectory;

constexpr int kBlocks = 40;

class UsedTier {
 public:
  explicit UsedTier(uint64_t seed) : random_(seed) { Open(); }

  void Act() {
    ASSERT_NE(tier_, nullptr);
    const int block = static_cast<int>(random_.Below(kBlocks)) + 1;
    switch (random_.Below(9)) {
      case 0:
        Open();
        break;
      case 1:
        backups_.push_back(fmt::format("{}/{}", folder_.path(), backups_.size()));
        testing::CopyAsOfAMoment(records(), backups_.back());
        break;
      case 2:
        static_cast<void>(tier_->Erase(std::vector{BlockNamed(block)}));
        break;
      case 3:
        static_cast<void>(tier_->Flush());
        break;
      default:
        static_cast<void>(tier_->Put(std::vector{Of(block, 0), Of(block, 1)}));
        CheckRecords();
    }
  }
  void MixFiles() {
    tier_.reset();
    if (!backups_.empty()) {
      fs::copy(backups_[random_.Below(backups_.size())], records(),
               fs::copy_options::recursive | fs::copy_options::overwrite_existing);
    }
    Open();
    CheckRecords();
  }

 private:
  std::string records() const { return folder_.path() + "/records"; }
  static TierRecord Of(int block, int head) { return RecordOf(block, block - 1, head, 3000); }

  void Open() {
    tier_.reset();
    auto opened = DiskTier::Open({.directory = records(),
                                  .limits = {.bytes = 150000},
                                  .memtable_bytes = int64_t{1} << 20,
                                  .reserve_bytes = 0,
                                  .least_garbage_bytes = 20000,
                                  .write_deadline = std::chrono::seconds(20)});
    ASSERT_TRUE(opened.ok()) << opened.status();
    tier_ = *std::move(opened);
  }
  /// What is there is right; records of encrypted tiers have a checksum besides.
  void CheckRecords() {
    std::vector<TierRecord> all;
    for (int block = 1; block <= kBlocks; ++block) {
      for (int head = 0; head < 2; ++head) all.push_back(Of(block, head));
    }
    const auto found = tier_->Get(KeysOf(all));
    for (size_t i = 0; i < all.size(); ++i) {
      EXPECT_TRUE(!found[i] || found[i]->bytes.size() == all[i].bytes.size());
    }
  }

  SplitMix random_;
  TemporaryDirectory folder_;
  std::unique_ptr<DiskTier> tier_;
  std::vector<std::string> backups_;
};

TEST(DiskMixture, EndsNothing) {
  for (uint64_t seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE(seed);
    UsedTier tier(seed);
    for (int round = 0; round < 4; ++round) {
      for (int i = 0; i < 20; ++i) tier.Act();
      tier.MixFiles();
    }
  }
}

}  // namespace
}  // namespace tandem::kv_store
