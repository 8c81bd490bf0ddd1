#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "kv_store/tiers/disk_tier.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tier_records.h"

// What the disk tier tells of damage, and leaves as it is, to whoever only looks.

namespace tandem::kv_store {
namespace {

namespace fs = std::filesystem;
using testing::KeysOf;
using testing::RecordOf;
using testing::TemporaryDirectory;

std::unique_ptr<DiskTier> MustOpenIn(const std::string& directory) {
  auto tier = DiskTier::Open({.directory = directory, .limits = {}, .reserve_bytes = 0});
  EXPECT_TRUE(tier.ok()) << tier.status();
  return tier.ok() ? std::move(*tier) : nullptr;
}

std::vector<TierRecord> Some() {
  std::vector<TierRecord> records;
  for (int n = 1; n <= 3; ++n) {
    for (int head = 0; head < 2; ++head) records.push_back(RecordOf(n, n - 1, head, 50'000));
  }
  return records;
}

std::vector<RecordKey> Keys() { return KeysOf(Some()); }

/// Files whose name begins or ends so.
std::vector<fs::path> Files(const std::string& directory, const std::string& what) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(what) || name.ends_with(what)) files.push_back(entry.path());
  }
  return files;
}

void Flip(const fs::path& path, int64_t at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(at);
  const auto byte = static_cast<char>(file.get() ^ 1);
  file.seekp(at);
  file.put(byte);
}

TEST(DiskLook, WhatIsDamagedIsToldAndStays) {
  const TemporaryDirectory directory;
  { ASSERT_TRUE(MustOpenIn(directory.path())->Put(Some()).ok()); }
  ASSERT_EQ(Files(directory.path(), ".blob").size(), 1U);
  Flip(Files(directory.path(), ".blob")[0], 10'000);
  const auto tier = MustOpenIn(directory.path());
  for (int round = 0; round < 2; ++round) {
    int unreadable = 0;
    for (const PeekedRecord& peeked : tier->Peek(TierKind::kDisk, Keys())) {
      if (peeked.state == PeekedRecord::State::kUnreadable) ++unreadable;
    }
    EXPECT_EQ(unreadable, 1);
  }
  EXPECT_EQ(tier->Stats().dropped, 0U);
  EXPECT_EQ(tier->Stats().records, 6);
  int found = 0;
  for (const auto& record : tier->Get(Keys())) found += record.has_value() ? 1 : 0;
  EXPECT_EQ(found, 5) << "who uses it drops it";
  EXPECT_EQ(tier->Stats().dropped, 1U);
}

TEST(DiskLook, ADatabaseThatIsDamagedAsAWholeCanBeKept) {
  const TemporaryDirectory directory;
  { ASSERT_TRUE(MustOpenIn(directory.path())->Put(Some()).ok()); }
  for (const fs::path& path : Files(directory.path(), "MANIFEST")) Flip(path, 20);
  const auto before = Files(directory.path(), "");
  const auto kept = DiskTier::Open(
      {.directory = directory.path(), .limits = {}, .reserve_bytes = 0, .keeps_damaged = true});
  EXPECT_TRUE(absl::IsDataLoss(kept.status())) << kept.status();
  for (const fs::path& path : before) EXPECT_TRUE(fs::exists(path)) << path;
  EXPECT_NE(MustOpenIn(directory.path())->began_anew(), "");
}

}  // namespace
}  // namespace tandem::kv_store
