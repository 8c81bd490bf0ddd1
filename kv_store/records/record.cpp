#include "kv_store/records/record.h"

// xxhash's functions become inline, for the instruction set that this file is compiled for.
#define XXH_INLINE_ALL
#include <sodium.h>
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <string>
#include <type_traits>
#include <utility>

#include "core/base/check.h"
#include "kv_store/base/hex.h"

namespace tandem::kv_store {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr char kMagic[8] = {'T', 'A', 'N', 'D', 'E', 'M', 'K', 'V'};
// Keeps these keys apart from any other use of BLAKE2b.
constexpr char kKeyPurpose[] = "tandem kv record key 2";

// Where the fields stand (docs/record_format.md).
constexpr size_t kVersionAt = 8;
constexpr size_t kHeaderBytesAt = 12;
constexpr size_t kPayloadBytesAt = 16;
constexpr size_t kTokensAt = 24;
constexpr size_t kKvHeadAt = 28;
constexpr size_t kGroupAt = 32;
constexpr size_t kLayersAt = 36;
constexpr size_t kHeadDimAt = 40;
constexpr size_t kDtypeAt = 44;
constexpr size_t kFingerprintAt = 48;
constexpr size_t kBlockAt = 80;
constexpr size_t kChecksumBytes = 16;  // the last of the header
// Of states, in the place of the checksum.
constexpr size_t kStateKindAt = 112;
constexpr size_t kRowsAt = 116;
constexpr size_t kColumnsAt = 120;
constexpr size_t kSegmentAt = 124;
constexpr size_t kReservedAt = 128;  // 16 bytes of 0
static_assert(kReservedAt + 16 + kChecksumBytes == kStateRecordHeaderBytes);

// With these no product of sizes comes near the end of 64 bits.
constexpr uint32_t kMostHeads = 1 << 20;
constexpr uint32_t kMostGroups = 1 << 10;
constexpr uint32_t kMostLayers = 1 << 16;
constexpr uint32_t kMostHeadDim = 1 << 16;
constexpr uint32_t kMostSegment = 1 << 30;

const unsigned char* Raw(const void* data) { return static_cast<const unsigned char*>(data); }

template <typename T>
void Store(std::byte* record, size_t at, T value) {
  std::memcpy(record + at, &value, sizeof(T));
}

uint32_t Load32(std::span<const std::byte> record, size_t at) {
  uint32_t value = 0;
  std::memcpy(&value, record.data() + at, sizeof(value));
  return value;
}

size_t HeaderBytesOfVersion(uint32_t version) {
  return version == kStateRecordVersion ? kStateRecordHeaderBytes : kRecordHeaderBytes;
}
size_t HeaderBytes(std::span<const std::byte> record) {
  return HeaderBytesOfVersion(Load32(record, kVersionAt));
}
size_t ChecksumAt(std::span<const std::byte> record) {
  return HeaderBytes(record) - kChecksumBytes;
}

/// Of the header before the checksum and of the payload. Against damage, not against people:
/// whoever may write records can make them, too.
std::array<uint8_t, kChecksumBytes> Checksum(std::span<const std::byte> record) {
  const size_t header = HeaderBytes(record);
  XXH3_state_t state;
  XXH3_128bits_reset(&state);
  XXH3_128bits_update(&state, record.data(), header - kChecksumBytes);
  XXH3_128bits_update(&state, record.data() + header, record.size() - header);
  XXH128_canonical_t canonical;
  static_assert(sizeof(canonical.digest) == kChecksumBytes);
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state));
  std::array<uint8_t, kChecksumBytes> sum{};
  std::memcpy(sum.data(), canonical.digest, sum.size());
  return sum;
}

uint64_t PayloadBytes(const RecordHeader& header) {
  if (header.state) {
    return static_cast<uint64_t>(header.layers) * static_cast<uint64_t>(header.state->rows) *
           static_cast<uint64_t>(header.state->columns) * sizeof(float);
  }
  return 2ULL * static_cast<uint64_t>(header.layers) * static_cast<uint64_t>(header.name.tokens) *
         static_cast<uint64_t>(core::KvVectorBytes(header.dtype, header.head_dim));
}

std::string StateText(const std::optional<StateShape>& state) {
  if (!state) return "keys and values";
  return fmt::format("a state of {} x {} numbers behind segments of {} tokens", state->rows,
                     state->columns, state->segment);
}

/// What a record of this name says in that geometry.
RecordHeader HeaderOf(const Fingerprint& fingerprint, const RecordName& name,
                      const core::KvGeometry& geometry) {
  const core::KvLayerGroup& group = geometry.groups[static_cast<size_t>(name.group)];
  RecordHeader header{.fingerprint = fingerprint,
                      .name = name,
                      .layers = static_cast<int32_t>(group.layers.size()),
                      .head_dim = geometry.head_dim,
                      .dtype = geometry.dtype};
  if (group.states) {
    header.state = {.kind = StateKind::kInfiniMemory,
                    .rows = geometry.head_dim + 1,
                    .columns = geometry.head_dim,
                    .segment = group.segment};
  }
  return header;
}

/// The runs of bytes that stand together in the pages of a block and in a record's payload.
std::vector<core::CopyRun> RunsOf(const RecordName& name, const core::KvView& view,
                                  core::BlockId block_id, int rank_kv_head, std::byte* payload) {
  const core::KvGeometry& geometry = view.geometry();
  const auto page_bytes = static_cast<size_t>(geometry.PageBytes());
  const auto element = static_cast<size_t>(core::KvElementBytes(geometry.dtype));
  const auto tokens = static_cast<size_t>(name.tokens);
  const auto head_dim = static_cast<size_t>(geometry.head_dim);
  std::vector<core::CopyRun> runs;
  const auto add = [&](std::byte* page, size_t bytes) {
    runs.push_back({.device = page, .host = payload, .bytes = bytes});
    payload += bytes;
  };
  const core::KvLayerGroup& group = geometry.groups[static_cast<size_t>(name.group)];
  for (const int layer : group.layers) {
    if (group.states) {
      // The normalizer stands behind the memory.
      const core::KvState state = view.State(layer, rank_kv_head, block_id);
      add(reinterpret_cast<std::byte*>(state.memory), static_cast<size_t>(geometry.StateBytes()));
      continue;
    }
    const core::KvPage page = view.Page(layer, rank_kv_head, block_id);
    if (name.tokens == core::kPageTokens) {
      add(page.keys, page_bytes);  // values and scales stand behind the keys
      continue;
    }
    for (size_t d = 0; d < head_dim; ++d) {
      add(page.keys + d * core::kPageTokens * element, tokens * element);
    }
    add(page.values, tokens * head_dim * element);
    if (page.scales == nullptr) continue;
    for (const int of_values : {0, 1}) {
      add(reinterpret_cast<std::byte*>(page.scales + of_values * core::kPageTokens),
          tokens * sizeof(float));
    }
  }
  return runs;
}

}  // namespace

RecordKey RecordKeyOf(const Fingerprint& fingerprint, const RecordName& name) {
  static_assert(std::tuple_size_v<Fingerprint> <= crypto_generichash_KEYBYTES_MAX);
  RecordKey key{};
  crypto_generichash_state state;
  crypto_generichash_init(&state, fingerprint.data(), fingerprint.size(), key.size());
  crypto_generichash_update(&state, Raw(kKeyPurpose), sizeof(kKeyPurpose));
  crypto_generichash_update(&state, name.block.data(), name.block.size());
  crypto_generichash_update(&state, Raw(&name.kv_head), sizeof(name.kv_head));
  crypto_generichash_update(&state, Raw(&name.group), sizeof(name.group));
  crypto_generichash_final(&state, key.data(), key.size());
  return key;
}

int64_t RecordBytes(const core::KvGeometry& geometry, int32_t group, int32_t tokens) {
  const core::KvLayerGroup& of_states = geometry.groups[static_cast<size_t>(group)];
  if (of_states.states) {
    return static_cast<int64_t>(kStateRecordHeaderBytes) +
           geometry.StateBytes() * static_cast<int64_t>(of_states.layers.size());
  }
  return static_cast<int64_t>(kRecordHeaderBytes) +
         geometry.PageBytes() / core::kPageTokens * tokens *
             static_cast<int64_t>(geometry.groups[static_cast<size_t>(group)].layers.size());
}

absl::StatusOr<std::vector<std::byte>> EncodeRecord(const Fingerprint& fingerprint,
                                                    const RecordName& name, const PagePool& pool,
                                                    core::BlockId block_id, int rank_kv_head,
                                                    std::vector<std::byte> memory) {
  const core::KvGeometry& geometry = pool.view().geometry();
  TANDEM_CHECK(name.tokens >= 1 && name.tokens <= core::kPageTokens, "tokens of a record");
  const RecordHeader header = HeaderOf(fingerprint, name, geometry);
  const uint64_t payload_bytes = PayloadBytes(header);
  std::vector<std::byte> record = std::move(memory);
  const uint32_t version = header.state ? kStateRecordVersion : kRecordVersion;
  const size_t header_bytes = HeaderBytesOfVersion(version);
  record.resize(header_bytes + payload_bytes);
  std::byte* out = record.data();
  std::memcpy(out, kMagic, sizeof(kMagic));
  Store(out, kVersionAt, version);
  Store(out, kHeaderBytesAt, static_cast<uint32_t>(header_bytes));
  Store(out, kPayloadBytesAt, payload_bytes);
  Store(out, kTokensAt, name.tokens);
  Store(out, kKvHeadAt, name.kv_head);
  Store(out, kGroupAt, name.group);
  Store(out, kLayersAt, header.layers);
  Store(out, kHeadDimAt, header.head_dim);
  Store(out, kDtypeAt, static_cast<uint32_t>(header.dtype));
  Store(out, kFingerprintAt, fingerprint);
  Store(out, kBlockAt, name.block);
  if (header.state) {
    Store(out, kStateKindAt, static_cast<uint32_t>(header.state->kind));
    Store(out, kRowsAt, header.state->rows);
    Store(out, kColumnsAt, header.state->columns);
    Store(out, kSegmentAt, header.state->segment);
    std::fill_n(out + kReservedAt, header_bytes - kChecksumBytes - kReservedAt, std::byte{0});
  }
  TANDEM_RETURN_IF_ERROR(pool.memory().CopyToHost(
      RunsOf(name, pool.view(), block_id, rank_kv_head, out + header_bytes)));
  Store(out, header_bytes - kChecksumBytes, Checksum(record));
  return record;
}

absl::StatusOr<RecordHeader> ParseRecord(std::span<const std::byte> bytes) {
  if (bytes.size() < kRecordHeaderBytes) {
    return absl::DataLossError(fmt::format("KV record: {} bytes, but its header alone has {}",
                                           bytes.size(), kRecordHeaderBytes));
  }
  if (std::memcmp(bytes.data(), kMagic, sizeof(kMagic)) != 0) {
    return absl::DataLossError("KV record: does not begin with TANDEMKV");
  }
  const uint32_t version = Load32(bytes, kVersionAt);
  if (version != kRecordVersion && version != kStateRecordVersion) {
    return FailedPrecondition("KV record: version {}, this program reads {} and {}", version,
                              kRecordVersion, kStateRecordVersion);
  }
  const size_t header_bytes = HeaderBytesOfVersion(version);
  if (bytes.size() < header_bytes) {
    return absl::DataLossError(fmt::format("KV record: {} bytes, but its header alone has {}",
                                           bytes.size(), header_bytes));
  }
  if (const auto sum = Checksum(bytes);
      std::memcmp(sum.data(), bytes.data() + ChecksumAt(bytes), sum.size()) != 0) {
    return absl::DataLossError(
        fmt::format("KV record of {} bytes: its checksum is not that of its bytes", bytes.size()));
  }
  const auto damaged = [](std::string_view what, uint64_t found, uint64_t low, uint64_t high) {
    return absl::DataLossError(
        fmt::format("KV record: {} is {}, expected {} to {}", what, found, low, high));
  };
  const auto check = [&](std::string_view what, size_t at, uint32_t low,
                         uint32_t high) -> absl::StatusOr<int32_t> {
    const uint32_t found = Load32(bytes, at);
    if (found < low || found > high) return damaged(what, found, low, high);
    return static_cast<int32_t>(found);
  };
  RecordHeader header;
  TANDEM_ASSIGN_OR_RETURN(header.name.tokens, check("tokens", kTokensAt, 1, core::kPageTokens));
  TANDEM_ASSIGN_OR_RETURN(header.name.kv_head, check("kv_head", kKvHeadAt, 0, kMostHeads));
  TANDEM_ASSIGN_OR_RETURN(header.name.group, check("group", kGroupAt, 0, kMostGroups));
  TANDEM_ASSIGN_OR_RETURN(header.layers, check("layers", kLayersAt, 0, kMostLayers));
  TANDEM_ASSIGN_OR_RETURN(header.head_dim, check("head_dim", kHeadDimAt, 1, kMostHeadDim));
  TANDEM_ASSIGN_OR_RETURN(const int32_t dtype,
                          check("dtype", kDtypeAt, 0, std::size(core::kKvDtypes) - 1));
  const auto expected_bytes = static_cast<uint32_t>(header_bytes);
  TANDEM_RETURN_IF_ERROR(
      check("header bytes", kHeaderBytesAt, expected_bytes, expected_bytes).status());
  if (version == kStateRecordVersion) {
    TANDEM_RETURN_IF_ERROR(
        check("tokens", kTokensAt, core::kPageTokens, core::kPageTokens).status());
    TANDEM_RETURN_IF_ERROR(check("kind of state", kStateKindAt, 1, 1).status());
    StateShape& state = header.state.emplace();
    TANDEM_ASSIGN_OR_RETURN(state.rows, check("rows", kRowsAt, 1, kMostHeadDim + 1));
    TANDEM_ASSIGN_OR_RETURN(state.columns, check("columns", kColumnsAt, 1, kMostHeadDim));
    TANDEM_ASSIGN_OR_RETURN(state.segment, check("segment", kSegmentAt, 1, kMostSegment));
    for (size_t at = kReservedAt; at < ChecksumAt(bytes); at += sizeof(uint32_t)) {
      TANDEM_RETURN_IF_ERROR(check("reserved bytes", at, 0, 0).status());
    }
  }
  header.dtype = static_cast<core::KvDtype>(dtype);
  std::memcpy(header.fingerprint.data(), bytes.data() + kFingerprintAt, header.fingerprint.size());
  std::memcpy(header.name.block.data(), bytes.data() + kBlockAt, header.name.block.size());
  uint64_t payload_bytes = 0;
  std::memcpy(&payload_bytes, bytes.data() + kPayloadBytesAt, sizeof(payload_bytes));
  const uint64_t shape_bytes = PayloadBytes(header);
  if (payload_bytes != shape_bytes) {
    return damaged("payload bytes", payload_bytes, shape_bytes, shape_bytes);
  }
  if (const uint64_t present = bytes.size() - header_bytes; present != payload_bytes) {
    return damaged("bytes behind the header", present, payload_bytes, payload_bytes);
  }
  return header;
}

void MoveRecord(std::vector<std::byte>& record, const BlockHash& block) {
  TANDEM_CHECK(record.size() >= kRecordHeaderBytes && record.size() >= HeaderBytes(record),
               "size of a record");
  Store(record.data(), kBlockAt, block);
  Store(record.data(), ChecksumAt(record), Checksum(record));
}

absl::Status CheckRecord(std::span<const std::byte> bytes, const Fingerprint& fingerprint,
                         const RecordName& name, const core::KvGeometry& geometry) {
  TANDEM_CHECK(name.group >= 0 && static_cast<size_t>(name.group) < geometry.groups.size(),
               "layer group of a record");
  TANDEM_ASSIGN_OR_RETURN(const RecordHeader found, ParseRecord(bytes));
  const RecordHeader expected = HeaderOf(fingerprint, name, geometry);
  if (found == expected) return absl::OkStatus();
  if (found.fingerprint != expected.fingerprint) {
    return FailedPrecondition(
        "KV record: it was made under fingerprint {}, not {} (another model, numerics version, "
        "device class or cache dtype)",
        Hex(found.fingerprint), Hex(fingerprint));
  }
  if (found.name.block != name.block) {
    return FailedPrecondition("KV record: it holds block {}, not {}", Hex(found.name.block),
                              Hex(name.block));
  }
  if (found.state != expected.state) {
    return FailedPrecondition("KV record: it holds {}, expected {}", StateText(found.state),
                              StateText(expected.state));
  }
  return FailedPrecondition(
      "KV record: {} tokens of KV head {} in the {} layers of group {}, head_dim {}, {}; expected "
      "{} tokens of KV head {} in the {} layers of group {}, head_dim {}, {}",
      found.name.tokens, found.name.kv_head, found.layers, found.name.group, found.head_dim,
      core::KvDtypeName(found.dtype), name.tokens, name.kv_head, expected.layers, name.group,
      expected.head_dim, core::KvDtypeName(expected.dtype));
}

absl::Status LoadRecord(std::span<const std::byte> bytes, const RecordName& name,
                        const PagePool& pool, core::BlockId block_id, int rank_kv_head) {
  TANDEM_CHECK(static_cast<int64_t>(bytes.size()) ==
                   RecordBytes(pool.view().geometry(), name.group, name.tokens),
               "size of a checked record");
  auto* payload = const_cast<std::byte*>(bytes.data()) + HeaderBytes(bytes);  // read only
  return pool.memory().CopyFromHost(RunsOf(name, pool.view(), block_id, rank_kv_head, payload));
}

}  // namespace tandem::kv_store
