#include "kv_store/tiers/disk_tier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>

#include "tests/kv_store/tiers/tier_suite.h"
#include "tests/support/disk_image.h"
#include "tests/support/random.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tier_records.h"

namespace tandem::kv_store {
namespace {

namespace fs = std::filesystem;
using testing::BlockNamed;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::KeysOf;
using testing::RecordOf;
using testing::SplitMix;
using testing::TemporaryDirectory;

DiskTierOptions Options(const std::string& directory, const TierLimits& limits = {}) {
  return {.directory = directory,
          .limits = limits,
          .memtable_bytes = int64_t{1} << 20,
          .reserve_bytes = 0,
          .least_garbage_bytes = int64_t{1} << 20,
          .write_deadline = std::chrono::seconds(20)};
}

std::unique_ptr<DiskTier> MustOpen(const DiskTierOptions& options) {
  auto tier = DiskTier::Open(options);
  EXPECT_TRUE(tier.ok()) << tier.status();
  return tier.ok() ? std::move(*tier) : nullptr;
}

/// The tier goes before its directory.
struct TierInDirectory {
  TemporaryDirectory directory;
  std::unique_ptr<DiskTier> tier;
};

INSTANTIATE_TEST_SUITE_P(Disk, TierSuite,
                         ::testing::Values(TierMaker{
                             .name = "Disk",
                             .make =
                                 [](const TierLimits& limits) {
                                   auto both = std::make_shared<TierInDirectory>();
                                   both->tier = MustOpen(Options(both->directory.path(), limits));
                                   return std::shared_ptr<Tier>(both, both->tier.get());
                                 }}),
                         TierMakerName);

/// Block 1 to n, each on the one before, with two heads.
std::vector<TierRecord> Chain(int blocks, int64_t bytes, int first = 1, uint64_t tenant = 0) {
  std::vector<TierRecord> records;
  for (int n = first; n < first + blocks; ++n) {
    for (int head = 0; head < 2; ++head) {
      records.push_back(RecordOf(n, n == first ? 0 : n - 1, head, bytes, tenant));
    }
  }
  return records;
}

/// How many are found; none may be wrong.
int Found(Tier& tier, const std::vector<TierRecord>& records) {
  int count = 0;
  const auto found = tier.Get(KeysOf(records));
  for (size_t i = 0; i < records.size(); ++i) {
    if (!found[i]) continue;
    EXPECT_EQ(found[i]->bytes, records[i].bytes);
    EXPECT_EQ(found[i]->before, records[i].before);
    EXPECT_EQ(found[i]->tenant, records[i].tenant);
    ++count;
  }
  return count;
}

TEST(DiskTier, IsThereAgainAfterARestart) {
  const TemporaryDirectory directory;
  const auto records = Chain(20, 5000, 1, 3);
  {
    const auto tier = MustOpen(Options(directory.path()));
    ASSERT_TRUE(tier->Put(records).ok());
  }
  const auto tier = MustOpen(Options(directory.path()));
  EXPECT_EQ(tier->began_anew(), "");
  const TierStats stats = tier->Stats();
  EXPECT_EQ(stats.records, 40);
  EXPECT_EQ(stats.blocks, 20);
  EXPECT_EQ(stats.bytes, 40 * 5000);
  EXPECT_EQ(Found(*tier, records), 40);
  struct stat status {};
  ASSERT_EQ(stat(directory.path().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0700U);
}

TEST(DiskTier, RemembersWhatWasUsedLastAcrossRestarts) {
  const TemporaryDirectory directory;
  const std::vector<TierRecord> records = {RecordOf(1, 0, 0, 1000), RecordOf(2, 0, 0, 1000),
                                           RecordOf(3, 0, 0, 1000)};
  {
    const auto tier = MustOpen(Options(directory.path(), {.bytes = 3000}));
    ASSERT_TRUE(tier->Put(records).ok());
    tier->Get(std::vector{records[0].key});
  }
  {
    const auto tier = MustOpen(Options(directory.path(), {.bytes = 3000}));
    ASSERT_TRUE(tier->Put(std::vector{RecordOf(4, 0, 0, 1000)}).ok());
    EXPECT_THAT(tier->Exists(KeysOf(records)), ElementsAre(true, false, true));
  }
  // And a smaller limit is kept to at once.
  const auto tier = MustOpen(Options(directory.path(), {.bytes = 1000}));
  EXPECT_EQ(tier->Stats().records, 1);
  EXPECT_TRUE(tier->Exists(std::vector{RecordOf(4, 0, 0, 1).key})[0]);
}

TEST(DiskTier, ASecondProcessIsRefused) {
  const TemporaryDirectory directory;
  const auto tier = MustOpen(Options(directory.path()));
  ASSERT_TRUE(tier->Put(Chain(3, 100)).ok());
  const auto second = DiskTier::Open(Options(directory.path()));
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition) << second.status();
  EXPECT_THAT(Message(second.status()), HasSubstr(directory.path()));
  EXPECT_EQ(Found(*tier, Chain(3, 100)), 6);
}

constexpr char kChildDirectory[] = "TANDEM_TEST_DISK_TIER";

/// What the next test runs as a process of its own: RocksDB's threads do not survive a fork.
TEST(DiskTierChild, DISABLED_PutsFlushesPutsAndIsKilled) {
  const char* directory = std::getenv(kChildDirectory);
  if (directory == nullptr) GTEST_SKIP() << "only as a child";
  const auto tier = MustOpen(Options(directory));
  ASSERT_TRUE(tier->Put(Chain(10, 3000)).ok());
  ASSERT_TRUE(tier->Flush().ok());
  ASSERT_TRUE(tier->Put(Chain(10, 3000, 100)).ok());
  raise(SIGKILL);
}

TEST(DiskTier, WhatWasFlushedOutlivesAKill) {
  const TemporaryDirectory directory;
  const pid_t child = fork();
  if (child == 0) {
    setenv(kChildDirectory, directory.path().c_str(), 1);
    execl("/proc/self/exe", "kv_store_test", "--gtest_also_run_disabled_tests", "--gtest_brief=1",
          "--gtest_filter=DiskTierChild.*", nullptr);
    _exit(1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
  const auto tier = MustOpen(Options(directory.path()));
  EXPECT_EQ(tier->began_anew(), "");
  EXPECT_EQ(Found(*tier, Chain(10, 3000)), 20);
  // The rest may be there or not, but all of it is right.
  const int rest = Found(*tier, Chain(10, 3000, 100));
  EXPECT_EQ(tier->Stats().records, 20 + rest);
  EXPECT_EQ(tier->Stats().dropped, 0U);
}

TEST(DiskTier, TakesLittleMoreThanTheRecordsThemselves) {
  const TemporaryDirectory directory;
  const auto tier = MustOpen(Options(directory.path()));
  // Records as small as they come: one token of one head of 64 dimensions in 6 layers.
  const auto records = Chain(500, 6 * 2 * 64 * 2 * 4);
  ASSERT_TRUE(tier->Put(records).ok());
  ASSERT_TRUE(tier->Flush().ok());
  EXPECT_GE(tier->BytesOnDisk(), tier->Stats().bytes);
  EXPECT_LT(static_cast<double>(tier->BytesOnDisk()),
            1.05 * static_cast<double>(tier->Stats().bytes));
}

TEST(DiskTier, FilesShrinkAfterEvictionAndErasure) {
  const TemporaryDirectory directory;
  const auto tier = MustOpen(Options(directory.path(), {.bytes = 8 << 20}));
  // Eight times what it may hold; every second conversation is used again and again, so that what
  // dies lies between what lives.
  for (int i = 0; i < 64; ++i) {
    ASSERT_TRUE(tier->Put(Chain(8, 64 << 10, 1 + 100 * i)).ok());
    if (i % 2 == 0) tier->Get(KeysOf(Chain(8, 64 << 10, 1)));
    if (i % 4 == 0) {
      ASSERT_TRUE(tier->Flush().ok());
    }
  }
  ASSERT_TRUE(tier->Flush().ok());
  EXPECT_EQ(Found(*tier, Chain(8, 64 << 10, 1)), 16);
  const auto wait_below = [&](int64_t bytes) {
    for (int i = 0; i < 300 && tier->BytesOnDisk() > bytes; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    return tier->BytesOnDisk();
  };
  EXPECT_LE(wait_below(10 << 20), 10 << 20);
  std::vector<BlockHash> all;
  for (int i = 1; i < 64; ++i) all.push_back(BlockNamed(1 + 100 * i));
  ASSERT_TRUE(tier->Erase(all).ok());
  EXPECT_EQ(tier->Stats().records, 16);
  EXPECT_LE(wait_below(3 << 20), 3 << 20);
  EXPECT_EQ(Found(*tier, Chain(8, 64 << 10, 1)), 16);
}

TEST(DiskTier, ManySmallFilesAreJoined) {
  const TemporaryDirectory directory;
  DiskTierOptions options = Options(directory.path());
  options.most_files = 8;
  const auto tier = MustOpen(options);
  for (int i = 0; i < 40; ++i) {
    ASSERT_TRUE(tier->Put(Chain(2, 1000, 1 + 10 * i)).ok());
    ASSERT_TRUE(tier->Flush().ok());
  }
  const auto blob_files = [&] {
    return std::count_if(fs::directory_iterator(directory.path()), fs::directory_iterator(),
                         [](const auto& entry) { return entry.path().extension() == ".blob"; });
  };
  for (int i = 0; i < 100 && blob_files() > 8; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  EXPECT_LE(blob_files(), 8);
  for (int i = 0; i < 40; ++i) EXPECT_EQ(Found(*tier, Chain(2, 1000, 1 + 10 * i)), 4);
}

std::string ContentOf(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<fs::path> FilesOf(const std::string& directory) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

TEST(DiskTier, NothingOfWhatWasErasedCanBeReadAgain) {
  const TemporaryDirectory directory;
  const TemporaryDirectory copy;
  const auto records = Chain(4, 3000);
  const auto tier = MustOpen(Options(directory.path()));
  ASSERT_TRUE(tier->Put(records).ok());
  ASSERT_TRUE(tier->Flush().ok());
  const std::string plain(reinterpret_cast<const char*>(records[2].bytes.data()), 64);
  for (const fs::path& file : FilesOf(directory.path())) {
    EXPECT_EQ(ContentOf(file).find(plain), std::string::npos) << file;
  }
  testing::CopyAsOfAMoment(directory.path(), copy.path());
  std::vector<RecordDatabase::Block> blocks;
  {
    const auto before = RecordDatabase::Open({.directory = copy.path()});
    ASSERT_TRUE(before.ok()) << before.status();
    ASSERT_TRUE((*before)
                    ->ForEachRecord([&](const RecordDatabase::Block& block, const RecordKey&,
                                        int64_t) { blocks.push_back(block); })
                    .ok());
  }
  ASSERT_EQ(blocks.size(), 8U);
  const auto secret_files = [&](const RecordDatabase::Block& block) {
    const std::string secret(block.secret.begin(), block.secret.end());
    int count = 0;
    for (const fs::path& file : FilesOf(directory.path())) {
      count += ContentOf(file).find(secret) != std::string::npos ? 1 : 0;
    }
    return count;
  };
  for (const auto& block : blocks) EXPECT_GE(secret_files(block), 1);
  ASSERT_TRUE(tier->Erase(std::vector{BlockNamed(3)}).ok());
  for (const auto& block : blocks) {
    const bool erased = block.block == BlockNamed(3) || block.block == BlockNamed(4);
    EXPECT_EQ(secret_files(block) == 0, erased);
  }
  EXPECT_EQ(Found(*tier, records), 4);
}

/// Damages one file of a database with records, and uses it: whatever is found is right.
void TryDamage(const std::string& original, SplitMix& random,
               const std::vector<TierRecord>& records, int& found, int& anew) {
  const TemporaryDirectory directory;
  fs::copy(original, directory.path(),
           fs::copy_options::recursive | fs::copy_options::overwrite_existing);
  auto files = FilesOf(directory.path());
  std::erase_if(files, [](const fs::path& path) {
    return path.filename() == "LOG" || path.filename() == "LOCK" || fs::file_size(path) == 0;
  });
  const fs::path victim = files[random.Below(files.size())];
  const auto size = fs::file_size(victim);
  const uint64_t how = random.Below(4);
  if (how == 0) {
    fs::resize_file(victim, random.Below(size));
  } else if (how == 1) {
    fs::remove(victim);
  } else {
    std::fstream file(victim, std::ios::in | std::ios::out | std::ios::binary);
    const auto at = static_cast<std::streamoff>(random.Below(size));
    file.seekg(at);
    const auto byte = static_cast<char>(file.get() ^ (1 << random.Below(8)));
    file.seekp(at);
    file.put(byte);
  }
  SCOPED_TRACE(victim.filename().string() + (how < 2 ? " cut or removed" : " flipped"));
  const auto tier = MustOpen(Options(directory.path()));
  ASSERT_NE(tier, nullptr);
  const int got = Found(*tier, records);
  found += got;
  anew += tier->began_anew().empty() ? 0 : 1;
  EXPECT_LE(tier->Stats().records, got);  // what was damaged was dropped
  // A shorter manifest may be an older state, which is whole.
  EXPECT_LE(tier->Stats().dropped, records.size() - static_cast<size_t>(got));
  // It goes on: what is put again is there again, at the latest when what only a compaction meets
  // has been repaired.
  absl::Status status;
  for (int i = 0; i < 200; ++i) {
    status = tier->Put(records);
    if (status.ok()) status = tier->Flush();
    if (status.ok() && Found(*tier, records) == static_cast<int>(records.size())) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  FAIL() << status << "; " << Found(*tier, records) << " of " << records.size() << " found";
}

TEST(DiskTier, SurvivesFlippedBitsAndTornFiles) {
  const TemporaryDirectory directory;
  std::vector<TierRecord> records;
  {
    const auto tier = MustOpen(Options(directory.path()));
    for (int i = 0; i < 3; ++i) {
      const auto more = Chain(4, 2000, 1 + 10 * i);
      ASSERT_TRUE(tier->Put(more).ok());
      ASSERT_TRUE(tier->Flush().ok());
      records.insert(records.end(), more.begin(), more.end());
    }
  }
  SplitMix random(1);
  int found = 0;
  int anew = 0;
  constexpr int kTries = 40;
  for (int i = 0; i < kTries; ++i) TryDamage(directory.path(), random, records, found, anew);
  // Damage to a blob file costs what is in it, damage elsewhere may cost all.
  EXPECT_GT(found, 0);
  EXPECT_LT(found, kTries * static_cast<int>(records.size()));
  EXPECT_LT(anew, kTries);
}

TEST(DiskTier, FoldersInThePlaceOfItsFilesArePutAside) {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/records";
  { ASSERT_TRUE(MustOpen(Options(path))->Put(Chain(20, 1000)).ok()); }
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(path)) names.push_back(entry.path().filename());
  for (const std::string& name : names) {
    fs::remove(path + "/" + name);
    fs::create_directory(path + "/" + name);
    std::ofstream(path + "/" + name + "/mine") << "mine";
    ASSERT_NE(MustOpen(Options(path)), nullptr) << name;
    EXPECT_TRUE(fs::exists(fmt::format("{}.{}.damaged-1/mine", path, name))) << name;
  }
  fs::remove_all(path);
  std::ofstream(path) << "mine";
  ASSERT_TRUE(MustOpen(Options(path))->Put(Chain(20, 1000)).ok());
  EXPECT_TRUE(fs::is_regular_file(path + ".damaged-1"));
}

TEST(DiskTier, DamageThatOnlyCollectionMeetsIsRepaired) {
  const TemporaryDirectory directory;
  {
    const auto tier = MustOpen(Options(directory.path()));
    for (int i = 0; i < 4; ++i) {
      ASSERT_TRUE(tier->Put(Chain(10, 64 << 10, 1 + 10 * i)).ok());
      ASSERT_TRUE(tier->Flush().ok());
    }
  }
  // One bit in each of two blob files, which are joined with the others below.
  int flipped = 0;
  for (const fs::path& path : FilesOf(directory.path())) {
    if (path.extension() != ".blob" || flipped++ > 1) continue;
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(100'000);
    const auto byte = static_cast<char>(file.get() ^ 1);
    file.seekp(100'000);
    file.put(byte);
  }
  ASSERT_GE(flipped, 2);
  DiskTierOptions options = Options(directory.path());
  options.most_files = 1;
  const auto tier = MustOpen(options);
  ASSERT_TRUE(tier->Put(Chain(1, 100, 500)).ok());
  for (int i = 0; i < 300 && tier->Stats().dropped == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  std::vector<TierRecord> records;
  for (int i = 0; i < 4; ++i) {
    for (TierRecord& record : Chain(10, 64 << 10, 1 + 10 * i)) records.push_back(std::move(record));
  }
  EXPECT_EQ(Found(*tier, records), 78);
  EXPECT_EQ(tier->Stats().dropped, 2U);
  EXPECT_EQ(tier->began_anew(), "");
  EXPECT_TRUE(tier->Put(records).ok());
  EXPECT_EQ(Found(*tier, records), 80);
}

TEST(DiskTier, LeavesRoomToOthers) {
  const TemporaryDirectory directory;
  {
    const auto tier = MustOpen(Options(directory.path()));
    ASSERT_TRUE(tier->Put(Chain(2, 1000)).ok());
  }
  DiskTierOptions options = Options(directory.path());
  options.reserve_bytes = int64_t{1} << 60;
  const auto tier = MustOpen(options);
  const absl::Status status = tier->Put(Chain(3, 1000));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(status), HasSubstr("make room"));
  EXPECT_EQ(Found(*tier, Chain(3, 1000)), 4);
  EXPECT_EQ(tier->Stats().refused, 2U);
  EXPECT_TRUE(tier->Erase(std::vector{BlockNamed(2)}).ok());
  EXPECT_EQ(Found(*tier, Chain(3, 1000)), 2);
}

/// A file system of its own, of a few megabytes.
class SmallDisk {
 public:
  explicit SmallDisk(int megabytes) {
    const std::string options = "size=" + std::to_string(megabytes) + "m,mode=0700";
    mounted_ = mount("tandem", directory_.path().c_str(), "tmpfs", 0, options.c_str()) == 0;
  }
  ~SmallDisk() {
    if (mounted_) umount2(directory_.path().c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  std::string path() const { return directory_.path() + "/kv"; }
  std::string ballast() const { return directory_.path() + "/ballast"; }

 private:
  TemporaryDirectory directory_;
  bool mounted_ = false;
};

void TryFullDisk(int64_t reserve_bytes) {
  const SmallDisk disk(48);
  if (!disk.mounted()) GTEST_SKIP() << "only root may mount a small disk";
  DiskTierOptions options = Options(disk.path());
  options.reserve_bytes = reserve_bytes;
  options.write_deadline = std::chrono::milliseconds(200);
  const auto tier = MustOpen(options);
  ASSERT_NE(tier, nullptr);
  ASSERT_TRUE(tier->Put(Chain(40, 64 << 10)).ok());
  ASSERT_TRUE(tier->Flush().ok());
  {
    std::ofstream ballast(disk.ballast(), std::ios::binary);
    const std::string megabyte(1 << 20, 'x');
    while (ballast.write(megabyte.data(), static_cast<std::streamsize>(megabyte.size()))) {
      ballast.flush();
    }
  }
  absl::Status status;
  for (int i = 1; i <= 20 && status.ok(); ++i) {
    status = tier->Put(Chain(20, 64 << 10, 100 * i));
    if (status.ok()) status = tier->Flush();
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_EQ(Found(*tier, Chain(40, 64 << 10)), 80);
  fs::remove(disk.ballast());
  for (int i = 0; i < 100; ++i) {
    status = tier->Put(Chain(20, 64 << 10, 5000));
    if (status.ok()) status = tier->Flush();
    if (status.ok()) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(Found(*tier, Chain(20, 64 << 10, 5000)), 40);
  EXPECT_EQ(Found(*tier, Chain(40, 64 << 10)), 80);
  EXPECT_EQ(tier->Stats().dropped, 0U);
}

TEST(DiskTier, AFullDiskRefusesAndServesAndRecovers) { TryFullDisk(0); }

TEST(DiskTier, AFullDiskWithAReserveRefusesAndServesAndRecovers) { TryFullDisk(int64_t{4} << 20); }

}  // namespace
}  // namespace tandem::kv_store
