#include "kv_store/weights/kept_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kv_store/weights/kept_format.h"
#include "tests/support/read_file.h"
#include "tests/support/temporary_directory.h"

namespace tandem::kv_store {
namespace {

using ::testing::HasSubstr;
using testing::TemporaryDirectory;

const std::vector<int64_t> kMatrices = {1000, 64, 300'000, 4'300'000, 1};

std::string MatrixName(size_t index) { return fmt::format("matrix {}", index); }

std::byte ByteOf(size_t matrix, int64_t at) {
  return static_cast<std::byte>(static_cast<uint64_t>(at) * 2654435761U + matrix * 97 + 1);
}

KeptWeights::Options OptionsOf(const std::string& folder, bool in_memory = true) {
  return {.path = folder + "/shard",
          .key = "a shard of a model",
          .matrices = kMatrices,
          .in_memory = in_memory,
          .run = [](int64_t tasks, absl::FunctionRef<void(int64_t)> body) {
            for (int64_t task = 0; task < tasks; ++task) body(task);
          }};
}

/// Takes all matrices; packs those that are not there. Whether all that were there are right.
bool TakeAll(KeptWeights& weights) {
  bool right = true;
  for (size_t i = 0; i < kMatrices.size(); ++i) {
    const auto place = weights.Take(MatrixName(i), kMatrices[i]);
    if (!place.ok()) {
      ADD_FAILURE() << place.status();
      return false;
    }
    EXPECT_EQ(reinterpret_cast<uintptr_t>(place->data) % 64, 0U);
    EXPECT_EQ(place->filled, weights.found());
    for (int64_t at = 0; at < kMatrices[i]; ++at) {
      if (!place->filled) {
        EXPECT_EQ(place->data[at], std::byte{0});
        place->data[at] = ByteOf(i, at);
      }
      right = right && place->data[at] == ByteOf(i, at);
    }
  }
  return right;
}

std::unique_ptr<KeptWeights> MustOpen(const KeptWeights::Options& options) {
  auto opened = KeptWeights::Open(options);
  EXPECT_TRUE(opened.ok()) << opened.status();
  return opened.ok() ? *std::move(opened) : nullptr;
}

/// A process's part: whether it found what is right.
bool Use(const KeptWeights::Options& options) {
  const auto weights = MustOpen(options);
  const bool right = weights != nullptr && TakeAll(*weights);
  EXPECT_TRUE(right);
  EXPECT_TRUE(weights->Finish().ok());
  EXPECT_TRUE(weights->AwaitWritten().ok());
  return right && weights->found();
}

size_t EntriesOf(const std::string& folder) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder),
                                           std::filesystem::directory_iterator()));
}

mode_t ModeOfFile(const std::string& path) {
  struct stat facts {};
  EXPECT_EQ(lstat(path.c_str(), &facts), 0) << path;
  return facts.st_mode;
}

class KeptWeightsIn : public ::testing::TestWithParam<bool> {
 protected:
  const TemporaryDirectory folder_;
  const KeptWeights::Options options_ = OptionsOf(folder_.path(), GetParam());
};
INSTANTIATE_TEST_SUITE_P(, KeptWeightsIn, ::testing::Values(true, false),
                         [](const auto& of) { return of.param ? "Memory" : "Disk"; });

TEST_P(KeptWeightsIn, AreFoundByTheNextProcess) {
  EXPECT_FALSE(Use(options_));
  EXPECT_EQ(ModeOfFile(options_.path), S_IFREG | 0600U);
  EXPECT_TRUE(Use(options_));
  EXPECT_TRUE(Use(options_));
  EXPECT_EQ(EntriesOf(folder_.path()), 1U);
}

TEST_P(KeptWeightsIn, CanOnlyBeReadOnceTheyAreWhole) {
  for (const bool found : {false, true}) {
    const auto weights = MustOpen(options_);
    ASSERT_EQ(weights->found(), found);
    ASSERT_TRUE(TakeAll(*weights));
    ASSERT_TRUE(weights->Finish().ok());
    ASSERT_TRUE(weights->AwaitWritten().ok());
    const pid_t child = fork();
    if (child == 0) {
      signal(SIGSEGV, SIG_DFL);
      const auto again = MustOpen(options_);
      const auto place = again->Take(MatrixName(0), kMatrices[0]);
      place->data[0] = std::byte{0};
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV) << status;
  }
}

TEST_P(KeptWeightsIn, AreNotThereBeforeTheyAreWhole) {
  {
    const auto weights = MustOpen(options_);
    ASSERT_TRUE(TakeAll(*weights));
    EXPECT_FALSE(std::filesystem::exists(options_.path));
  }
  EXPECT_EQ(EntriesOf(folder_.path()), 0U);
  const pid_t child = fork();
  if (child == 0) {
    const auto weights = MustOpen(options_);
    TakeAll(*weights);
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(EntriesOf(folder_.path()), 0U);
  EXPECT_FALSE(Use(options_));
}

TEST_P(KeptWeightsIn, OfSomethingElseAreDataLoss) {
  ASSERT_FALSE(Use(options_));
  {
    const auto weights = MustOpen(options_);
    ASSERT_TRUE(weights->found());
    EXPECT_TRUE(absl::IsDataLoss(weights->Take("another", kMatrices[0]).status()));
    EXPECT_TRUE(absl::IsDataLoss(weights->Take(MatrixName(0), kMatrices[0] + 1).status()));
    EXPECT_TRUE(weights->Take(MatrixName(0), kMatrices[0]).ok());
    EXPECT_TRUE(absl::IsDataLoss(weights->Take(MatrixName(0), kMatrices[0]).status()));
    EXPECT_TRUE(absl::IsDataLoss(weights->Finish()));
  }
  const auto weights = MustOpen(options_);
  ASSERT_TRUE(TakeAll(*weights));
  EXPECT_TRUE(absl::IsDataLoss(weights->Take("one more", 1).status()));
}

TEST_P(KeptWeightsIn, TakeNoMoreThanThereIsRoomFor) {
  const auto weights = MustOpen(options_);
  EXPECT_TRUE(absl::IsResourceExhausted(weights->Take("too large", 1 << 30).status()));
  ASSERT_TRUE(TakeAll(*weights));
  EXPECT_TRUE(absl::IsResourceExhausted(weights->Take("one more", 1).status()));
  EXPECT_TRUE(weights->Finish().ok());
}

/// Bytes of the file that say something.
int64_t UsedBytes(const std::string& path) {
  const std::string bytes = testing::ReadFile(path);
  const auto head = DecodeKeptHead(std::as_bytes(std::span(bytes)).first(kKeptHeadBytes));
  EXPECT_TRUE(head.ok()) << head.status();
  return head->index_begin + head->index_bytes;
}

void FlipAt(const std::string& path, int64_t at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(at);
  const auto byte = static_cast<char>(file.get() ^ 16);
  file.seekp(at);
  file.put(byte);
  ASSERT_TRUE(file.good());
}

/// Damages what is kept; it must not be believed, go, and be made anew.
void ExpectMadeAnewAfter(const KeptWeights::Options& options, const std::string& what,
                         const std::function<void()>& damage) {
  SCOPED_TRACE(what);
  if (!std::filesystem::is_regular_file(std::filesystem::symlink_status(options.path))) {
    ASSERT_FALSE(Use(options));
  }
  ASSERT_TRUE(Use(options));
  damage();
  EXPECT_FALSE(Use(options));
  EXPECT_EQ(ModeOfFile(options.path), S_IFREG | 0600U);
  EXPECT_TRUE(Use(options));
}

TEST_P(KeptWeightsIn, AreNotBelievedWhereABitIsAnother) {
  ASSERT_FALSE(Use(options_));
  const int64_t used = UsedBytes(options_.path);
  std::vector<int64_t> places = {0, 7, 8, 12, 20, 43, 56, 63, 64, 1063, used - 1};
  for (int64_t at = 100; at < used; at += 377'777) places.push_back(at);
  for (const int64_t at : places) {
    // 44 to 55 are zeros that are left over, and covered.
    ExpectMadeAnewAfter(options_, fmt::format("byte {}", at), [&] { FlipAt(options_.path, at); });
  }
}

TEST_P(KeptWeightsIn, AreNotBelievedOfAnotherSizeOrVersionOrKey) {
  const std::string& path = options_.path;
  ASSERT_FALSE(Use(options_));
  const auto size = static_cast<int64_t>(std::filesystem::file_size(path));
  for (const int64_t bytes :
       {int64_t{0}, int64_t{63}, int64_t{64}, size / 2, size - 1, size + 4096}) {
    ExpectMadeAnewAfter(options_, fmt::format("{} bytes", bytes),
                        [&] { std::filesystem::resize_file(path, static_cast<uintmax_t>(bytes)); });
  }
  ExpectMadeAnewAfter(options_, "a newer version", [&] {
    std::string bytes = testing::ReadFile(path);
    bytes[8] = static_cast<char>(kKeptVersion + 1);
    const uint64_t checksum = HashOf(std::as_bytes(std::span(bytes)).first(kKeptHeadBytes - 8));
    std::memcpy(bytes.data() + kKeptHeadBytes - 8, &checksum, sizeof(checksum));
    std::ofstream(path, std::ios::binary) << bytes;
  });
  ExpectMadeAnewAfter(options_, "another shard's", [&] {
    KeptWeights::Options other = options_;
    other.key = "another shard";
    other.path += "-other";
    ASSERT_FALSE(Use(other));
    std::filesystem::rename(other.path, path);
  });
}

TEST_P(KeptWeightsIn, AreNotBelievedWhereOthersMayHaveWritten) {
  const std::string& path = options_.path;
  for (const mode_t mode : {0640U, 0604U, 0622U}) {
    ExpectMadeAnewAfter(options_, fmt::format("mode {:o}", mode),
                        [&] { ASSERT_EQ(chmod(path.c_str(), mode), 0); });
  }
  ExpectMadeAnewAfter(options_, "a hard link",
                      [&] { std::filesystem::create_hard_link(path, path + "-too"); });
  std::filesystem::remove(path + "-too");
  ExpectMadeAnewAfter(options_, "a symbolic link to what is right", [&] {
    std::filesystem::rename(path, path + "-there");
    std::filesystem::create_symlink(path + "-there", path);
  });
  EXPECT_TRUE(std::filesystem::exists(path + "-there"));
  ExpectMadeAnewAfter(options_, "a link to nothing", [&] {
    std::filesystem::remove(path);
    std::filesystem::create_symlink("/no/such/file", path);
  });
  ExpectMadeAnewAfter(options_, "a pipe", [&] {
    std::filesystem::remove(path);
    ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  });
  ExpectMadeAnewAfter(options_, "a folder", [&] {
    std::filesystem::remove(path);
    std::filesystem::create_directory(path);
  });
  EXPECT_TRUE(std::filesystem::is_directory(path + ".damaged-1"));
  if (geteuid() != 0) return;
  ExpectMadeAnewAfter(options_, "another user's",
                      [&] { ASSERT_EQ(chown(path.c_str(), 65534, 65534), 0); });
}

TEST(KeptWeights, WithHolesAreNotRead) {
  const TemporaryDirectory folder;
  const KeptWeights::Options options = OptionsOf(folder.path());
  ExpectMadeAnewAfter(options, "all zeros, none of them there", [&] {
    const auto size = std::filesystem::file_size(options.path);
    const std::string head = testing::ReadFile(options.path).substr(0, kKeptHeadBytes);
    std::filesystem::resize_file(options.path, 0);
    std::ofstream(options.path, std::ios::binary) << head;
    std::filesystem::resize_file(options.path, size);
  });
}

TEST(KeptWeights, AreHeldByWhoeverUsesThem) {
  const TemporaryDirectory folder;
  const KeptWeights::Options options = OptionsOf(folder.path());
  auto first = MustOpen(options);
  ASSERT_TRUE(TakeAll(*first));
  ASSERT_TRUE(first->Finish().ok());
  EXPECT_FALSE(RemoveUnlessHeld(options.path));
  auto second = MustOpen(options);
  ASSERT_TRUE(second->found());
  first.reset();
  EXPECT_FALSE(RemoveUnlessHeld(options.path));
  // Who removes it all the same takes nothing from whoever has it.
  std::filesystem::remove(options.path);
  EXPECT_TRUE(TakeAll(*second));
  second.reset();
  ASSERT_FALSE(Use(options));
  EXPECT_TRUE(RemoveUnlessHeld(options.path));
  EXPECT_FALSE(RemoveUnlessHeld(options.path));
}

TEST(KeptWeights, OfTheFirstStayWhereSeveralPackThem) {
  const TemporaryDirectory folder;
  const KeptWeights::Options options = OptionsOf(folder.path());
  auto first = MustOpen(options);
  auto second = MustOpen(options);
  ASSERT_TRUE(TakeAll(*first));
  ASSERT_TRUE(TakeAll(*second));
  EXPECT_TRUE(second->Finish().ok());
  EXPECT_TRUE(first->Finish().ok());
  EXPECT_EQ(EntriesOf(folder.path()), 1U);
  first.reset();
  EXPECT_FALSE(RemoveUnlessHeld(options.path));
  second.reset();
  EXPECT_TRUE(Use(options));
}

TEST_P(KeptWeightsIn, AreRightForAllWhoComeAtOnce) {
  constexpr int kRounds = 10;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([this, i] {
      for (int round = 0; round < kRounds; ++round) {
        Use(options_);
        if ((round + i) % 3 == 0) RemoveUnlessHeld(options_.path);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  Use(options_);
  EXPECT_TRUE(Use(options_));
  EXPECT_EQ(EntriesOf(folder_.path()), 1U);
}

TEST(KeptWeights, LieOnHugePagesOfTheirOwnWhereFilesGetNone) {
  const TemporaryDirectory folder;
  KeptWeights::Options options = OptionsOf(folder.path());
  options.may_collapse = false;
  options.may_copy = true;
  EXPECT_FALSE(Use(options));
  EXPECT_TRUE(Use(options));
  options.may_copy = false;
  EXPECT_TRUE(Use(options));
}

TEST(KeptWeights, AreNotKeptWhereThereIsNoRoom) {
  const TemporaryDirectory folder;
  if (mount("tandem", folder.path().c_str(), "tmpfs", 0, "size=3m,mode=0700") != 0) {
    GTEST_SKIP() << "only root may mount a small disk";
  }
  for (const bool may_collapse : {true, false}) {
    KeptWeights::Options options = OptionsOf(folder.path());
    options.may_collapse = may_collapse;
    const auto opened = KeptWeights::Open(options);
    EXPECT_TRUE(absl::IsResourceExhausted(opened.status())) << opened.status();
    EXPECT_THAT(Message(opened.status()), HasSubstr(folder.path()));
  }
  // What is not in memory can be used all the same.
  const auto weights = MustOpen(OptionsOf(folder.path(), /*in_memory=*/false));
  EXPECT_TRUE(TakeAll(*weights));
  EXPECT_TRUE(weights->Finish().ok());
  EXPECT_TRUE(absl::IsResourceExhausted(weights->AwaitWritten()));
  EXPECT_EQ(EntriesOf(folder.path()), 0U);
  umount2(folder.path().c_str(), MNT_DETACH);
}

TEST(KeptWeights, AreNotKeptInAFolderThatIsGone) {
  const TemporaryDirectory folder;
  const KeptWeights::Options options = OptionsOf(folder.path() + "/gone");
  EXPECT_TRUE(absl::IsResourceExhausted(KeptWeights::Open(options).status()));
  std::filesystem::create_directory(folder.path() + "/gone");
  const auto weights = MustOpen(options);
  ASSERT_TRUE(TakeAll(*weights));
  std::filesystem::remove(folder.path() + "/gone");
  EXPECT_FALSE(weights->Finish().ok());
}

TEST(KeptFormat, ReadsOnlyWhatWasWritten) {
  const KeptIndex index{
      .key = "k", .end = 192, .matrices = {{1, 64, 10}, {2, 128, 64}}, .checksums = {3}};
  const auto bytes = EncodeKeptIndex(index);
  EXPECT_LE(static_cast<int64_t>(bytes.size()), MostIndexBytes(1, 2, 192));
  const auto again = DecodeKeptIndex(bytes, 192);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(EncodeKeptIndex(*again), bytes);
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_TRUE(absl::IsDataLoss(DecodeKeptIndex(std::span(bytes).first(size), 192).status()));
  }
  const auto refused = [&](const KeptIndex& wrong) {
    return absl::IsDataLoss(DecodeKeptIndex(EncodeKeptIndex(wrong), 192).status());
  };
  KeptIndex wrong = index;
  wrong.end = 193;
  EXPECT_TRUE(refused(wrong));
  for (const KeptMatrix& matrix :
       {KeptMatrix{2, 64, 64}, KeptMatrix{2, 100, 8}, KeptMatrix{2, 128, 65}, KeptMatrix{2, 0, 8},
        KeptMatrix{2, -64, 8}, KeptMatrix{2, 128, -1}, KeptMatrix{2, 256, 0}}) {
    wrong = index;
    wrong.matrices[1] = matrix;
    EXPECT_TRUE(refused(wrong)) << matrix.begin << " " << matrix.bytes;
  }
  wrong = index;
  wrong.checksums.push_back(4);
  EXPECT_TRUE(refused(wrong));
  const KeptHead outside{
      .file_bytes = 100, .index_begin = 64, .index_bytes = 37, .index_checksum = 0};
  EXPECT_TRUE(absl::IsDataLoss(DecodeKeptHead(EncodeKeptHead(outside)).status()));
}

}  // namespace
}  // namespace tandem::kv_store
