#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "core/model/host_memory.h"
#include "kv_store/pages/page_pool.h"
#include "kv_store/records/record.h"
#include "tests/support/random.h"
#include "tests/support/record_checksum.h"

namespace tandem::kv_store {
namespace {

using ::testing::HasSubstr;
using testing::SplitMix;
using testing::WithRecordChecksum;

core::HostMemory state_host;

constexpr Fingerprint kStateFingerprint = {1, 2, 3};
constexpr int32_t kStates = 2;  // their layer group

core::KvGeometry StateGeometry() {
  return {.groups = {{.layers = {1, 3}, .segment = 128},
                     {.window = 100, .layers = {0, 2}},
                     {.layers = {1, 3}, .segment = 128, .states = true, .state_interval = 512}},
          .layers = 4,
          .kv_heads = 2,
          .head_dim = 6,
          .dtype = core::KvDtype::kF16};
}

PagePool StatePool(uint64_t seed) {
  auto pool = PagePool::Create(state_host, StateGeometry(), {2, 2, 2});
  EXPECT_TRUE(pool.ok()) << pool.status();
  SplitMix random(seed);
  for (const int layer : {1, 3}) {
    for (int head = 0; head < 2; ++head) {
      for (core::BlockId block = 0; block < 2; ++block) {
        std::generate_n(pool->view().State(layer, head, block).memory, 7 * 6,
                        [&] { return random.Unit(); });
      }
    }
  }
  return std::move(*pool);
}

RecordName StateName() {
  return {.block = {9, 8, 7}, .tokens = core::kPageTokens, .kv_head = 5, .group = kStates};
}

TEST(StateRecord, BringsBackTheStateOfOneHead) {
  const PagePool from = StatePool(1);
  const PagePool before = StatePool(2);
  const PagePool to = StatePool(2);
  const auto record = EncodeRecord(kStateFingerprint, StateName(), from, 1, 1).value();
  EXPECT_EQ(record.size(), 160U + 2 * 7 * 6 * 4);
  EXPECT_EQ(static_cast<int64_t>(record.size()), RecordBytes(StateGeometry(), kStates, 64));
  ASSERT_EQ(CheckRecord(record, kStateFingerprint, StateName(), StateGeometry()), absl::OkStatus());
  ASSERT_TRUE(LoadRecord(record, StateName(), to, 0, 0).ok());
  for (const int layer : {1, 3}) {
    for (int head = 0; head < 2; ++head) {
      for (core::BlockId block = 0; block < 2; ++block) {
        const bool written = head == 0 && block == 0;
        const float* expected = written ? from.view().State(layer, 1, 1).memory
                                        : before.view().State(layer, head, block).memory;
        EXPECT_TRUE(
            std::equal(expected, expected + 7 * 6, to.view().State(layer, head, block).memory));
      }
    }
  }
}

TEST(StateRecord, SaysItsShapeAndKind) {
  const auto record = EncodeRecord(kStateFingerprint, StateName(), StatePool(1), 0, 0).value();
  EXPECT_EQ(record[8], std::byte{3});
  const auto header = ParseRecord(record);
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->name, StateName());
  EXPECT_EQ(header->layers, 2);
  const StateShape expected{
      .kind = StateKind::kInfiniMemory, .rows = 7, .columns = 6, .segment = 128};
  EXPECT_EQ(header->state, expected);
}

TEST(StateRecord, DamageOfAnyByteIsFound) {
  const auto record = EncodeRecord(kStateFingerprint, StateName(), StatePool(1), 0, 0).value();
  for (size_t at = 0; at < record.size(); ++at) {
    auto changed = record;
    changed[at] ^= std::byte{16};
    EXPECT_FALSE(CheckRecord(changed, kStateFingerprint, StateName(), StateGeometry()).ok()) << at;
  }
  for (size_t size = 0; size < record.size(); ++size) {
    EXPECT_FALSE(ParseRecord(std::span(record).first(size)).ok()) << size;
    EXPECT_FALSE(
        ParseRecord(WithRecordChecksum({record.begin(), record.begin() + static_cast<long>(size)}))
            .ok())
        << size;
  }
}

TEST(StateRecord, FieldsAreCheckedUnderARightChecksum) {
  const auto record = EncodeRecord(kStateFingerprint, StateName(), StatePool(1), 0, 0).value();
  ASSERT_EQ(WithRecordChecksum(record), record);
  SplitMix random(5);
  for (size_t at = 0; at < kStateRecordHeaderBytes - 16; ++at) {
    for (int i = 0; i < 8; ++i) {
      auto changed = record;
      changed[at] ^= static_cast<std::byte>(1 + random.Below(255));
      changed = WithRecordChecksum(changed);
      EXPECT_FALSE(CheckRecord(changed, kStateFingerprint, StateName(), StateGeometry()).ok())
          << "byte " << at;
      if (at >= 128) {
        EXPECT_FALSE(ParseRecord(changed).ok()) << "reserved byte " << at;
      }
    }
  }
}

TEST(StateRecord, OthersAreRefusedByName) {
  const auto record = EncodeRecord(kStateFingerprint, StateName(), StatePool(1), 0, 0).value();
  core::KvGeometry other = StateGeometry();
  other.groups[0].segment = other.groups[kStates].segment = 192;
  const absl::Status status = CheckRecord(record, kStateFingerprint, StateName(), other);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(status), HasSubstr("a state of 7 x 6 numbers behind segments of 128 tokens"));
  // A page in a state's place.
  core::KvGeometry pages = StateGeometry();
  pages.groups[kStates] = {.window = 50, .layers = {1, 3}};
  EXPECT_THAT(Message(CheckRecord(record, kStateFingerprint, StateName(), pages)),
              HasSubstr("expected keys and values"));
}

TEST(StateRecord, MovesToAnotherBlock) {
  auto record = EncodeRecord(kStateFingerprint, StateName(), StatePool(1), 0, 0).value();
  MoveRecord(record, {4, 5});
  RecordName moved = StateName();
  moved.block = {4, 5};
  EXPECT_EQ(CheckRecord(record, kStateFingerprint, moved, StateGeometry()), absl::OkStatus());
}

}  // namespace
}  // namespace tandem::kv_store
