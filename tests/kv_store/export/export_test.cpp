#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "kv_store/export/export_reader.h"
#include "kv_store/export/export_writer.h"
#include "tests/support/hex.h"
#include "tests/support/kv_chain.h"
#include "tests/support/signed_export.h"
#include "tests/support/temporary_directory.h"

namespace tandem::kv_store {
namespace {

using testing::CountedTokens;
using ::testing::HasSubstr;
using testing::KvChain;
using testing::SignedExport;
using testing::TemporaryDirectory;
using testing::TestSigningKey;

KvChain TwoGroups() {
  KvChain chain;
  chain.geometry.groups = {{.window = 0, .layers = {0}}, {.window = 64, .layers = {1}}};
  return chain;
}

ExportHeader HeaderOf(const KvChain& chain, const std::vector<int32_t>& tokens, int64_t records) {
  return {.fingerprint = chain.fingerprint,
          .signer = TestSigningKey().public_key(),
          .model = "a model",
          .tokens = tokens,
          .kv_heads = chain.geometry.kv_heads,
          .groups = static_cast<int32_t>(chain.geometry.groups.size()),
          .state_groups = chain.geometry.StateGroups(),
          .records = records};
}

std::vector<ExportPlace> PlacesOf(const KvChain& chain, int32_t blocks) {
  std::vector<ExportPlace> places;
  for (int32_t block = 0; block < blocks; ++block) {
    for (int32_t group = 0; group < static_cast<int32_t>(chain.geometry.groups.size()); ++group) {
      for (int32_t head = 0; head < chain.geometry.kv_heads; ++head) {
        places.push_back({.block = block, .group = group, .kv_head = head});
      }
    }
  }
  return places;
}

std::vector<std::byte> BytesOf(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text(std::istreambuf_iterator<char>(file), {});
  const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
  return {bytes, bytes + text.size()};
}

/// A file of `blocks` blocks, but for the places that `left_out` says.
std::vector<std::byte> Exported(const KvChain& chain, int32_t blocks,
                                const std::function<bool(const ExportPlace&)>& left_out = nullptr) {
  const TemporaryDirectory folder;
  const std::vector<int32_t> tokens = CountedTokens(blocks * core::kPageTokens);
  const std::vector<TierRecord> records = chain.Records(tokens);
  const std::vector<ExportPlace> places = PlacesOf(chain, blocks);
  std::vector<size_t> kept;
  for (size_t i = 0; i < places.size(); ++i) {
    if (left_out == nullptr || !left_out(places[i])) kept.push_back(i);
  }
  const std::string path = folder.path() + "/file";
  auto writer = ExportWriter::Create(
      path, HeaderOf(chain, tokens, static_cast<int64_t>(kept.size())), TestSigningKey());
  EXPECT_TRUE(writer.ok()) << writer.status();
  for (const size_t i : kept) EXPECT_TRUE((*writer)->Add(places[i], records[i].bytes.Copy()).ok());
  EXPECT_TRUE((*writer)->Finish().ok());
  return BytesOf(path);
}

absl::Status ReadAll(std::span<const std::byte> bytes, std::vector<ExportRecord>* records = nullptr,
                     ExportHeader* header = nullptr) {
  MemorySource source(bytes);
  ExportReader reader(source);
  TANDEM_ASSIGN_OR_RETURN(const ExportHeader found, reader.ReadHeader());
  if (header != nullptr) *header = found;
  for (;;) {
    TANDEM_ASSIGN_OR_RETURN(auto record, reader.NextRecord());
    if (!record) break;
    if (records != nullptr) records->push_back(*std::move(record));
  }
  return reader.Finish();
}

TEST(Export, TheBytesOfAFileStayAsTheyWere) {
  const std::vector<std::byte> file = Exported(TwoGroups(), 1);
  constexpr size_t kName = 7;
  EXPECT_EQ(testing::Hex(std::span(file).first(kExportHeaderBytes + kName)),
            "54414e44454d5058020000006800000040000000030000000200000006000000070000000000"
            "00000102030000000000000000000000000000000000000000000000000000000000e4e57bc4"
            "fc4bca2ddc8b1f2f96fdfc9ce166e7cd639c10b811df7b512781b34161206d6f64656c");
  const size_t tokens = core::kPageTokens * sizeof(int32_t);
  EXPECT_EQ(
      testing::Hex(std::span(file).subspan(kExportHeaderBytes + kName + tokens, kExportEntryBytes)),
      "00000000000000000000000080040000");
  // The signature is over everything before it.
  EXPECT_EQ(testing::Hex(std::span(file).last(kExportSignatureBytes)),
            "6376b308c307cd4af0153225b2dc6b43ba4bd0f856e5c22c55ebb1195a1a86a9ebef22f040bd"
            "925706e0c7d8ad0144fed78d2c3586bc6a988a6d0ec933b34b0d");
}

TEST(Export, GivesBackTokensAndRecordsWithoutTheirTenant) {
  for (const KvChain& chain : {KvChain(), TwoGroups()}) {
    const std::vector<int32_t> tokens = CountedTokens(3 * core::kPageTokens);
    const std::vector<TierRecord> put = chain.Records(tokens);
    const std::vector<std::byte> file = Exported(chain, 3);
    std::vector<ExportRecord> records;
    ExportHeader header;
    ASSERT_TRUE(ReadAll(file, &records, &header).ok());
    EXPECT_EQ(header, HeaderOf(chain, tokens, static_cast<int64_t>(put.size())));
    ASSERT_EQ(records.size(), put.size());
    const std::vector<BlockHash> blocks = chain.Blocks(tokens);
    for (size_t i = 0; i < put.size(); ++i) {
      EXPECT_EQ(records[i].header.name.block, BlockHash{});
      std::vector<std::byte> moved = records[i].bytes;
      MoveRecord(moved, blocks[static_cast<size_t>(records[i].place.block)]);
      EXPECT_EQ(moved, put[i].bytes) << "record " << i;
      EXPECT_EQ(
          std::search(file.begin(), file.end(), std::as_bytes(std::span(put[i].block)).begin(),
                      std::as_bytes(std::span(put[i].block)).end()),
          file.end())
          << "a block's hash is in the file";
    }
  }
}

TEST(Export, ASlidingWindowMayBeLeftOutBeforeTheEndOnly) {
  const KvChain chain = TwoGroups();
  const auto left_out = [](int32_t block, int32_t group) {
    return [=](const ExportPlace& place) { return place.block == block && place.group == group; };
  };
  EXPECT_TRUE(ReadAll(Exported(chain, 3, left_out(0, 1))).ok());
  for (const auto& [block, group] : {std::pair{2, 1}, {2, 0}}) {
    EXPECT_TRUE(absl::IsDataLoss(ReadAll(Exported(chain, 3, left_out(block, group)))));
  }
  const auto one_head = [](const ExportPlace& place) {
    return place == ExportPlace{.block = 1, .group = 0, .kv_head = 1};
  };
  EXPECT_THAT(Message(ReadAll(Exported(chain, 3, one_head))), HasSubstr("expected KV head 1"));
  const auto whole_block = [](const ExportPlace& place) { return place.block == 1; };
  EXPECT_TRUE(absl::IsDataLoss(ReadAll(Exported(chain, 3, whole_block))));
}

TEST(Export, BlocksBeforeAStateMayBeLeftOut) {
  KvChain chain;
  chain.geometry.groups = {{.layers = {0, 1}, .segment = 128},
                           {.layers = {0, 1}, .segment = 128, .states = true}};
  constexpr int32_t kStates = 1;
  /// Of five blocks, whose pages or states are there.
  const auto with = [&](const std::set<int32_t>& pages, const std::set<int32_t>& states) {
    return ReadAll(Exported(chain, 5, [&](const ExportPlace& place) {
      return !(place.group == kStates ? states : pages).contains(place.block);
    }));
  };
  EXPECT_EQ(with({0, 1, 2, 3, 4}, {}), absl::OkStatus());
  EXPECT_EQ(with({0, 1, 2, 3, 4}, {1, 3}), absl::OkStatus());
  EXPECT_EQ(with({4}, {3}), absl::OkStatus());
  EXPECT_EQ(with({0}, {4}), absl::OkStatus()) << "it ends at a state";
  EXPECT_TRUE(absl::IsDataLoss(with({0, 1, 2, 3}, {3}))) << "nothing of its last block";
}

TEST(Export, EveryFlippedByteIsRefused) {
  KvChain chain;
  chain.geometry.kv_heads = 1;
  chain.geometry.layers = 1;
  chain.geometry.groups = {{.window = 0, .layers = {0}}};
  chain.geometry.head_dim = 1;
  std::vector<std::byte> file = Exported(chain, 2);
  ASSERT_TRUE(ReadAll(file).ok());
  for (size_t i = 0; i < file.size(); ++i) {
    file[i] ^= std::byte{0x10};
    const absl::Status status = ReadAll(file);
    EXPECT_TRUE(absl::IsDataLoss(status) || absl::IsFailedPrecondition(status)) << "byte " << i;
    file[i] ^= std::byte{0x10};
  }
  for (size_t size = 0; size < file.size(); ++size) {
    const absl::Status status = ReadAll(std::span(file).first(size));
    ASSERT_THAT(Message(status), HasSubstr("cut short")) << size << " bytes";
  }
  file.push_back(std::byte{0});
  EXPECT_THAT(Message(ReadAll(file)), HasSubstr("follows its signature"));
}

/// Whoever can sign may still write nonsense.
TEST(Export, NonsenseUnderARightSignatureIsRefused) {
  const KvChain chain = TwoGroups();
  const std::vector<std::byte> file = Exported(chain, 2);
  const auto with = [&](size_t at, uint32_t value) {
    std::vector<std::byte> changed = file;
    std::memcpy(changed.data() + at, &value, sizeof(value));
    return ReadAll(SignedExport(changed));
  };
  EXPECT_TRUE(ReadAll(SignedExport(file)).ok());
  constexpr uint32_t kHuge = 0xFFFFFFFF;
  for (const size_t at : {16, 20, 24, 28, 32, 36}) {
    EXPECT_TRUE(absl::IsDataLoss(with(at, kHuge))) << "field at " << at;
  }
  EXPECT_THAT(Message(with(16, 65)), HasSubstr("whole blocks"));
  const size_t first = kExportHeaderBytes + std::strlen("a model") + 4 * 2 * core::kPageTokens;
  EXPECT_THAT(Message(with(first, 1)), HasSubstr("expected the next block"));
  for (size_t at = first; at < first + kExportEntryBytes; at += 4) {
    EXPECT_TRUE(absl::IsDataLoss(with(at, kHuge))) << "entry's field at " << at - first;
  }
  EXPECT_THAT(Message(with(kExportHeaderBytes + std::strlen("a model"), kHuge)),
              HasSubstr("is no token"));
  // In the first record's header: tokens, KV head, layers, head_dim, dtype, fingerprint, block.
  for (const size_t at : {24, 28, 32, 36, 40, 44, 48, 80}) {
    EXPECT_TRUE(absl::IsDataLoss(with(first + kExportEntryBytes + at, 7))) << at;
  }
}

TEST(Export, AnotherVersionIsNamed) {
  std::vector<std::byte> file = Exported(KvChain(), 1);
  file[8] = std::byte{1};
  const absl::Status status = ReadAll(file);
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_THAT(Message(status), HasSubstr("version 1, this program reads 2"));
}

TEST(Export, WhatIsThereStaysUntilTheNewFileIsWhole) {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/file";
  std::ofstream(path) << "before";
  const KvChain chain;
  const std::vector<int32_t> tokens = CountedTokens(core::kPageTokens);
  const std::vector<TierRecord> records = chain.Records(tokens);
  {
    auto writer = ExportWriter::Create(path, HeaderOf(chain, tokens, 3), TestSigningKey());
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE((*writer)->Add({}, records[0].bytes.Copy()).ok());
  }
  EXPECT_EQ(BytesOf(path).size(), std::strlen("before"));
  auto writer = ExportWriter::Create(path, HeaderOf(chain, tokens, 3), TestSigningKey());
  for (size_t i = 0; i < 3; ++i) {
    ASSERT_TRUE((*writer)->Add({.kv_head = static_cast<int32_t>(i)}, records[i].bytes.Copy()).ok());
  }
  ASSERT_TRUE((*writer)->Finish().ok());
  EXPECT_TRUE(ReadAll(BytesOf(path)).ok());
  EXPECT_EQ(static_cast<int64_t>(BytesOf(path).size()), (*writer)->bytes());
  struct stat facts {};
  ASSERT_EQ(stat(path.c_str(), &facts), 0);
  EXPECT_EQ(facts.st_mode & 07777U, 0600U) << "it holds what users said";
  const auto files = std::filesystem::directory_iterator(folder.path());
  EXPECT_EQ(std::distance(begin(files), end(files)), 1) << "nothing is left beside it";
}

TEST(Export, AFailedWriteIsToldAndLeavesNothing) {
  const TemporaryDirectory folder;
  const KvChain chain;
  const std::vector<int32_t> tokens = CountedTokens(core::kPageTokens);
  const auto header = HeaderOf(chain, tokens, 3);
  EXPECT_TRUE(absl::IsInvalidArgument(
      ExportWriter::Create(folder.path(), header, TestSigningKey()).status()));
  EXPECT_THAT(
      Message(
          ExportWriter::Create(folder.path() + "/not/there", header, TestSigningKey()).status()),
      HasSubstr("not/there"));
  // A file that may not grow is written to like a disk that is full.
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = 600, .rlim_max = before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  {
    auto writer = ExportWriter::Create(folder.path() + "/file", header, TestSigningKey());
    ASSERT_TRUE(writer.ok()) << writer.status();
    const absl::Status added = (*writer)->Add({}, chain.Records(tokens)[0].bytes.Copy());
    EXPECT_THAT(Message(added), HasSubstr("cannot be written"));
  }
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(SigningKey, IsMadeOnceAndKept) {
  const TemporaryDirectory folder;
  const auto first = OpenSigningKey(folder.path(), nullptr);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto again = OpenSigningKey(folder.path(), nullptr);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(first->public_key(), again->public_key());
  EXPECT_EQ(first->secret(), again->secret());
  const TemporaryDirectory other;
  EXPECT_NE(OpenSigningKey(other.path(), nullptr)->public_key(), first->public_key());
  const std::string path = folder.path() + "/export.key";
  struct stat facts {};
  ASSERT_EQ(stat(path.c_str(), &facts), 0);
  EXPECT_EQ(facts.st_mode & 07777U, 0600U);
  const auto files = std::filesystem::directory_iterator(folder.path());
  EXPECT_EQ(std::distance(begin(files), end(files)), 1);
}

TEST(SigningKey, IsSealedWhereTheDirectoryHasAKey) {
  const TemporaryDirectory folder;
  const EncryptedBox box(StateKey{1});
  const EncryptedBox wrong(StateKey{2});
  const auto key = OpenSigningKey(folder.path(), &box);
  ASSERT_TRUE(key.ok()) << key.status();
  EXPECT_EQ(OpenSigningKey(folder.path(), &box)->public_key(), key->public_key());
  EXPECT_TRUE(absl::IsInvalidArgument(OpenSigningKey(folder.path(), &wrong).status()));
  const auto plain = OpenSigningKey(folder.path(), nullptr);
  EXPECT_THAT(Message(plain.status()), HasSubstr("--state-key"));
}

TEST(SigningKey, AFileThatIsNoKeyOrOthersMayReadIsRefused) {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/export.key";
  ASSERT_TRUE(OpenSigningKey(folder.path(), nullptr).ok());
  chmod(path.c_str(), 0640);
  EXPECT_THAT(Message(OpenSigningKey(folder.path(), nullptr).status()), HasSubstr("chmod 600"));
  chmod(path.c_str(), 0600);
  for (const char* text : {"", "nonsense", "abcd", "0"}) {
    std::ofstream(path) << text;
    const auto key = OpenSigningKey(folder.path(), nullptr);
    EXPECT_TRUE(absl::IsInvalidArgument(key.status())) << text;
  }
  EXPECT_TRUE(absl::IsUnavailable(OpenSigningKey(folder.path() + "/no", nullptr).status()));
}

TEST(PublicKeys, AreReadFromTextOrAFile) {
  const TemporaryDirectory folder;
  const std::string one = PublicKeyText(PublicKey{1, 2});
  const std::string two = PublicKeyText(PublicKey{3});
  EXPECT_THAT(*ReadPublicKeys(one), ::testing::ElementsAre(PublicKey{1, 2}));
  const std::string path = folder.path() + "/keys";
  std::ofstream(path) << "# ours\n\n" << one << "\n  " << two << "\r\n";
  EXPECT_THAT(*ReadPublicKeys(path), ::testing::ElementsAre(PublicKey{1, 2}, PublicKey{3}));
  std::ofstream(path) << one << "\n" << one.substr(1);
  EXPECT_THAT(Message(ReadPublicKeys(path).status()), HasSubstr("line 2"));
  std::ofstream(path) << "# none\n";
  EXPECT_TRUE(absl::IsInvalidArgument(ReadPublicKeys(path).status()));
  for (const std::string& text : {std::string("/no/such"), one.substr(1), std::string()}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ReadPublicKeys(text).status())) << text;
  }
}

}  // namespace
}  // namespace tandem::kv_store
