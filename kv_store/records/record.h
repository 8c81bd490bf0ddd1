#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/base/status.h"
#include "core/model/kv_view.h"
#include "kv_store/base/block_hash.h"
#include "kv_store/pages/page_pool.h"
#include "kv_store/records/tier.h"

// The byte layout stands in docs/record_format.md.
namespace tandem::kv_store {

inline constexpr uint32_t kRecordVersion = 2;
inline constexpr size_t kRecordHeaderBytes = 128;
/// Of records of states, which have a few more fields.
inline constexpr uint32_t kStateRecordVersion = 3;
inline constexpr size_t kStateRecordHeaderBytes = 160;

/// All that decides what a cache holds besides the tokens: model file, numerics version, device
/// class, cache dtype, RoPE. Records of another fingerprint are never found.
using Fingerprint = std::array<uint8_t, 32>;

/// What a record holds: the keys and values of up to 64 tokens of one KV head in the layers of one
/// group; or, of a group of states, what these layers remember at the end of 64 tokens.
struct RecordName {
  BlockHash block{};    // chained hash of the tokens up to its end
  int32_t tokens = 0;   // 1 to 64; fewer than 64: the tail of a conversation
  int32_t kv_head = 0;  // of the model
  int32_t group = 0;    // layer group

  bool operator==(const RecordName&) const = default;
};

/// What a state is made of.
enum class StateKind : uint32_t { kInfiniMemory = 1 };

/// The numbers of a state in one layer: a matrix. kInfiniMemory: head_dim rows of the memory, then
/// one of the normalizer.
struct StateShape {
  StateKind kind = StateKind::kInfiniMemory;
  int32_t rows = 0;
  int32_t columns = 0;
  int32_t segment = 0;  // tokens; the state stands behind a multiple of them

  bool operator==(const StateShape&) const = default;
};

/// What a record says of itself.
struct RecordHeader {
  Fingerprint fingerprint{};
  RecordName name;
  int32_t layers = 0;  // of the group
  int32_t head_dim = 0;
  core::KvDtype dtype = core::KvDtype::kF16;  // of the cache; a state is float32
  std::optional<StateShape> state = {};       // of a state

  bool operator==(const RecordHeader&) const = default;
};

/// Thread safety: none needed, functions of their arguments. So are all below.
RecordKey RecordKeyOf(const Fingerprint& fingerprint, const RecordName& name);

/// Bytes of a record of that many tokens and this group of the geometry.
int64_t RecordBytes(const core::KvGeometry& geometry, int32_t group, int32_t tokens);

/// A record of the pages of `block_id` for the rank's `rank_kv_head` (0-based within the rank). Of
/// a tail only the positions that count are in it. memory: used for it, whatever is in it. Errors:
/// those of the device.
absl::StatusOr<std::vector<std::byte>> EncodeRecord(const Fingerprint& fingerprint,
                                                    const RecordName& name, const PagePool& pool,
                                                    core::BlockId block_id, int rank_kv_head,
                                                    std::vector<std::byte> memory = {});

/// What a record says of itself, if it is whole and undamaged, whatever its name and shape.
/// kDataLoss where it is damaged, kFailedPrecondition where it is of another version.
absl::StatusOr<RecordHeader> ParseRecord(std::span<const std::byte> bytes);

/// Whether these bytes are a whole and undamaged record of that name and geometry. kDataLoss where
/// they are damaged, kFailedPrecondition where they are of another version, fingerprint, name or
/// shape; says what and where.
absl::Status CheckRecord(std::span<const std::byte> bytes, const Fingerprint& fingerprint,
                         const RecordName& name, const core::KvGeometry& geometry);

/// Gives a record that ParseRecord accepted to another block: the same keys and values, for the
/// same tokens of another tenant.
void MoveRecord(std::vector<std::byte>& record, const BlockHash& block);

/// Writes a record that CheckRecord accepted into the pages of `block_id`. Of a tail's pages only
/// the positions that count are written.
absl::Status LoadRecord(std::span<const std::byte> bytes, const RecordName& name,
                        const PagePool& pool, core::BlockId block_id, int rank_kv_head);

}  // namespace tandem::kv_store
