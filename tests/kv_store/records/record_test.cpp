#include "kv_store/records/record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "core/model/host_memory.h"
#include "kv_store/pages/page_pool.h"
#include "tests/support/random.h"
#include "tests/support/record_checksum.h"

namespace tandem::kv_store {
namespace {

using ::testing::HasSubstr;
using testing::SplitMix;
using testing::WithRecordChecksum;

core::HostMemory host;

constexpr Fingerprint kFingerprint = {1, 2, 3};

core::KvGeometry Geometry(core::KvDtype dtype = core::KvDtype::kF16) {
  return {.groups = {{.window = 0, .layers = {1, 3}}, {.window = 100, .layers = {0, 2, 4}}},
          .layers = 5,
          .kv_heads = 2,
          .head_dim = 8,
          .dtype = dtype};
}

PagePool RandomPool(const core::KvGeometry& geometry, uint64_t seed) {
  auto pool = PagePool::Create(host, geometry, {2, 2});
  EXPECT_TRUE(pool.ok()) << pool.status();
  SplitMix random(seed);
  for (int layer = 0; layer < geometry.layers; ++layer) {
    for (int head = 0; head < geometry.kv_heads; ++head) {
      for (core::BlockId block = 0; block < 2; ++block) {
        std::byte* page = pool->view().Page(layer, head, block).keys;
        for (int64_t i = 0; i < geometry.PageBytes(); ++i) {
          page[i] = static_cast<std::byte>(random.Next());
        }
      }
    }
  }
  return std::move(*pool);
}

RecordName Name(int32_t tokens, int32_t group) {
  return {.block = {9, 8, 7}, .tokens = tokens, .kv_head = 5, .group = group};
}

/// Bytes of one position of a page: each dimension of its key and value, then their scales.
std::vector<std::byte> Position(const core::KvView& view, int layer, int head, core::BlockId block,
                                int position) {
  const core::KvGeometry& geometry = view.geometry();
  const core::KvPage page = view.Page(layer, head, block);
  const auto element = core::KvElementBytes(geometry.dtype);
  std::vector<std::byte> bytes;
  for (int64_t d = 0; d < geometry.head_dim; ++d) {
    const std::byte* key = page.keys + (d * core::kPageTokens + position) * element;
    const std::byte* value = page.values + (position * geometry.head_dim + d) * element;
    bytes.insert(bytes.end(), key, key + element);
    bytes.insert(bytes.end(), value, value + element);
  }
  if (geometry.dtype == core::KvDtype::kF8) {
    for (const int at : {position, core::kPageTokens + position}) {
      const auto* scale = reinterpret_cast<const std::byte*>(page.scales + at);
      bytes.insert(bytes.end(), scale, scale + sizeof(float));
    }
  }
  return bytes;
}

TEST(Record, BringsBackExactlyThePositionsThatCount) {
  for (const core::KvDtype dtype : core::kKvDtypes) {
    const core::KvGeometry geometry = Geometry(dtype);
    for (const int32_t tokens : {1, 2, 63, 64}) {
      for (const int32_t group : {0, 1}) {
        const PagePool from = RandomPool(geometry, 1);
        const PagePool before = RandomPool(geometry, 2);
        const PagePool to = RandomPool(geometry, 2);
        const RecordName name = Name(tokens, group);
        const auto record = EncodeRecord(kFingerprint, name, from, 1, 1).value();
        EXPECT_EQ(static_cast<int64_t>(record.size()), RecordBytes(geometry, group, tokens));
        EXPECT_EQ(record.size() - kRecordHeaderBytes,
                  geometry.groups[static_cast<size_t>(group)].layers.size() * 2 *
                      static_cast<size_t>(tokens * core::KvVectorBytes(dtype, geometry.head_dim)));
        ASSERT_TRUE(CheckRecord(record, kFingerprint, name, geometry).ok());
        ASSERT_TRUE(LoadRecord(record, name, to, 0, 0).ok());
        for (int layer = 0; layer < geometry.layers; ++layer) {
          const bool in_group = to.view().group_of(layer) == group;
          for (int head = 0; head < 2; ++head) {
            for (core::BlockId block = 0; block < 2; ++block) {
              for (int position = 0; position < core::kPageTokens; ++position) {
                const bool written = in_group && head == 0 && block == 0 && position < tokens;
                ASSERT_EQ(Position(to.view(), layer, head, block, position),
                          written ? Position(from.view(), layer, 1, 1, position)
                                  : Position(before.view(), layer, head, block, position))
                    << "layer " << layer << ", head " << head << ", block " << block
                    << ", position " << position << " of " << tokens;
              }
            }
          }
        }
      }
    }
  }
}

TEST(Record, HoldsTheBytesThatTheDocumentSays) {
  // docs/record_format.md: the number of the dtype, and bytes a token of head_dim 8 in a layer.
  const std::pair<core::KvDtype, int64_t> told[] = {{core::KvDtype::kF16, 2 * 8 * 2},
                                                    {core::KvDtype::kF32, 2 * 8 * 4},
                                                    {core::KvDtype::kF8, 2 * (8 + 4)}};
  std::byte number{0};
  for (const auto& [dtype, bytes] : told) {
    const core::KvGeometry geometry = Geometry(dtype);
    const auto record =
        EncodeRecord(kFingerprint, Name(10, 1), RandomPool(geometry, 1), 0, 0).value();
    EXPECT_EQ(static_cast<int64_t>(record.size()), 128 + 3 * 10 * bytes);
    EXPECT_EQ(record[44], number);
    const auto header = ParseRecord(record);
    ASSERT_TRUE(header.ok()) << header.status();
    EXPECT_EQ(header->dtype, dtype);
    number = static_cast<std::byte>(static_cast<int>(number) + 1);
  }
}

TEST(Record, AFloat8TailHasItsScalesBehindItsValues) {
  const core::KvGeometry geometry = Geometry(core::KvDtype::kF8);
  const PagePool pool = RandomPool(geometry, 1);
  const core::KvPage page = pool.view().Page(1, 1, 0);
  const auto record = EncodeRecord(kFingerprint, Name(3, 0), pool, 0, 1).value();
  const std::byte* scales = record.data() + kRecordHeaderBytes + 2 * 3 * 8;
  EXPECT_EQ(std::memcmp(scales, page.scales, 3 * sizeof(float)), 0);
  EXPECT_EQ(
      std::memcmp(scales + 3 * sizeof(float), page.scales + core::kPageTokens, 3 * sizeof(float)),
      0);
}

TEST(Record, TailDoesNotDependOnWhatStandsBehindIt) {
  const core::KvGeometry geometry = Geometry();
  const PagePool pool = RandomPool(geometry, 1);
  const auto record = EncodeRecord(kFingerprint, Name(10, 0), pool, 0, 0).value();
  const core::KvPage page = pool.view().Page(1, 0, 0);
  page.keys[10 * 2] ^= std::byte{1};
  page.values[10 * 8 * 2] ^= std::byte{1};
  EXPECT_EQ(EncodeRecord(kFingerprint, Name(10, 0), pool, 0, 0).value(), record);
}

TEST(Record, LayoutIsThatOfTheDocument) {
  const core::KvGeometry geometry = Geometry();
  const PagePool pool = RandomPool(geometry, 1);
  const auto record = EncodeRecord(kFingerprint, Name(3, 1), pool, 1, 0).value();
  const auto number = [&](size_t at) {
    uint32_t value = 0;
    std::memcpy(&value, record.data() + at, 4);
    return value;
  };
  EXPECT_EQ(std::memcmp(record.data(), "TANDEMKV", 8), 0);
  EXPECT_EQ(number(8), 2U);
  EXPECT_EQ(number(12), 128U);
  EXPECT_EQ(number(16), 2U * 3 * 3 * 8 * 2);
  EXPECT_EQ(number(20), 0U);
  EXPECT_EQ(number(24), 3U);
  EXPECT_EQ(number(28), 5U);
  EXPECT_EQ(number(32), 1U);
  EXPECT_EQ(number(36), 3U);
  EXPECT_EQ(number(40), 8U);
  EXPECT_EQ(number(44), 0U);
  EXPECT_EQ(record[48], std::byte{1});
  EXPECT_EQ(record[80], std::byte{9});
  EXPECT_EQ(WithRecordChecksum(record), record);
  // Layer 2 is the second of the group; dimension 4 of its keys, token 1; dimension 4 of token 1's
  // values.
  const size_t layer_bytes = 2 * 3 * 8 * 2;
  const core::KvPage page = pool.view().Page(2, 0, 1);
  const std::byte* layer = record.data() + kRecordHeaderBytes + layer_bytes;
  EXPECT_EQ(std::memcmp(layer + (4 * 3 + 1) * 2, page.keys + (4 * 64 + 1) * 2, 2), 0);
  EXPECT_EQ(std::memcmp(layer + 8 * 3 * 2 + (1 * 8 + 4) * 2, page.values + (1 * 8 + 4) * 2, 2), 0);
}

TEST(Record, IsTheSameInMemoryThatWasUsed) {
  const core::KvGeometry geometry = Geometry();
  const PagePool pool = RandomPool(geometry, 1);
  const auto record = EncodeRecord(kFingerprint, Name(3, 1), pool, 1, 0).value();
  for (const size_t used : {size_t{1}, record.size(), 2 * record.size()}) {
    EXPECT_EQ(EncodeRecord(kFingerprint, Name(3, 1), pool, 1, 0,
                           std::vector<std::byte>(used, std::byte{0xA5}))
                  .value(),
              record);
  }
}

TEST(Record, EveryCutAndEveryFlippedBitIsSeen) {
  const core::KvGeometry geometry = Geometry();
  const PagePool pool = RandomPool(geometry, 1);
  const RecordName name = Name(2, 0);
  const auto record = EncodeRecord(kFingerprint, name, pool, 0, 0).value();
  for (size_t size = 0; size < record.size(); ++size) {
    EXPECT_EQ(CheckRecord(std::span(record).first(size), kFingerprint, name, geometry).code(),
              absl::StatusCode::kDataLoss)
        << size << " bytes";
  }
  for (size_t bit = 0; bit < record.size() * 8; ++bit) {
    auto damaged = record;
    damaged[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
    // That of states has another checksum, which is wrong then.
    const bool states = damaged[8] == std::byte{kStateRecordVersion};
    const bool version = bit / 8 >= 8 && bit / 8 < 12 && !states;
    EXPECT_EQ(CheckRecord(damaged, kFingerprint, name, geometry).code(),
              version ? absl::StatusCode::kFailedPrecondition : absl::StatusCode::kDataLoss)
        << "bit " << bit;
  }
  auto longer = record;
  longer.push_back(std::byte{0});
  EXPECT_EQ(CheckRecord(longer, kFingerprint, name, geometry).code(), absl::StatusCode::kDataLoss);
  longer = WithRecordChecksum(longer);
  EXPECT_EQ(CheckRecord(longer, kFingerprint, name, geometry).code(), absl::StatusCode::kDataLoss);
}

TEST(Record, FieldsAreCheckedUnderARightChecksum) {
  const core::KvGeometry geometry = Geometry();
  const PagePool pool = RandomPool(geometry, 1);
  const RecordName name = Name(2, 0);
  const auto record = EncodeRecord(kFingerprint, name, pool, 0, 0).value();
  ASSERT_EQ(WithRecordChecksum(record), record);
  SplitMix random(5);
  int refused = 0;
  for (size_t at = 0; at < kRecordHeaderBytes - 16; ++at) {
    for (int i = 0; i < 8; ++i) {
      auto changed = record;
      changed[at] ^= static_cast<std::byte>(1 + random.Below(255));
      changed = WithRecordChecksum(changed);
      const bool is_name = at >= 48 || (at >= 28 && at < 36);
      const auto header = ParseRecord(changed);
      // Any name is a name, as far as it is in range; the sizes must agree with the bytes.
      EXPECT_TRUE(is_name || !header.ok()) << "byte " << at;
      refused += header.ok() ? 0 : 1;
      EXPECT_FALSE(CheckRecord(changed, kFingerprint, name, geometry).ok()) << "byte " << at;
    }
  }
  EXPECT_GT(refused, 0);
}

TEST(Record, OthersAreRefusedByName) {
  const core::KvGeometry geometry = Geometry();
  const PagePool pool = RandomPool(geometry, 1);
  const RecordName name = Name(20, 0);
  const auto record = EncodeRecord(kFingerprint, name, pool, 0, 0).value();
  const auto refused = [&](const Fingerprint& fingerprint, const RecordName& asked,
                           const core::KvGeometry& shape) {
    const absl::Status status = CheckRecord(record, fingerprint, asked, shape);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    return Message(status);
  };
  EXPECT_THAT(refused({4}, name, geometry), HasSubstr("fingerprint 010203"));
  RecordName other = name;
  other.block[0] = 1;
  EXPECT_THAT(refused(kFingerprint, other, geometry), HasSubstr("block 090807"));
  other = name;
  other.tokens = 21;
  EXPECT_THAT(refused(kFingerprint, other, geometry), HasSubstr("20 tokens"));
  other = name;
  other.kv_head = 4;
  EXPECT_THAT(refused(kFingerprint, other, geometry), HasSubstr("KV head 5"));
  other = name;
  other.group = 1;
  EXPECT_THAT(refused(kFingerprint, other, geometry), HasSubstr("group 0"));
  core::KvGeometry shape = geometry;
  shape.head_dim = 16;
  EXPECT_THAT(refused(kFingerprint, name, shape), HasSubstr("head_dim 8"));
  EXPECT_THAT(refused(kFingerprint, name, Geometry(core::KvDtype::kF32)), HasSubstr("f16"));
  EXPECT_THAT(refused(kFingerprint, name, Geometry(core::KvDtype::kF8)),
              HasSubstr("head_dim 8, f8"));
  shape = geometry;
  shape.groups[0].layers = {1};
  EXPECT_THAT(refused(kFingerprint, name, shape), HasSubstr("2 layers"));
}

TEST(Record, KeysAreOfFingerprintBlockHeadAndGroup) {
  std::set<RecordKey> keys;
  RecordName name = Name(64, 0);
  keys.insert(RecordKeyOf(kFingerprint, name));
  EXPECT_EQ(RecordKeyOf(kFingerprint, name), *keys.begin());
  keys.insert(RecordKeyOf({7}, name));
  name.kv_head = 0;
  keys.insert(RecordKeyOf(kFingerprint, name));
  name.group = 5;
  keys.insert(RecordKeyOf(kFingerprint, name));
  name.block[31] = 1;
  keys.insert(RecordKeyOf(kFingerprint, name));
  EXPECT_EQ(keys.size(), 5U);
}

}  // namespace
}  // namespace tandem::kv_store
