#include <cstdlib>
#include <vector>

#include "core/model/host_memory.h"
#include "kv_store/pages/page_pool.h"
#include "kv_store/records/record.h"
#include "tests/support/record_checksum.h"

/// Records under a right checksum, so that the fields are reached. What is accepted is loaded into
/// pages that are as small as it says, and must come out of them again as it was.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tandem;
  using namespace tandem::kv_store;
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  static_cast<void>(ParseRecord({bytes, size}));

  const std::vector<std::byte> checked = testing::WithRecordChecksum({bytes, bytes + size});
  const auto header = ParseRecord(checked);
  if (!header.ok() || header->layers < 1 || header->name.group > 3) return 0;
  core::KvGeometry geometry{.groups = {},
                            .layers = header->layers,
                            .kv_heads = 1,
                            .head_dim = header->head_dim,
                            .dtype = header->dtype};
  geometry.groups.resize(static_cast<size_t>(header->name.group) + 1);
  core::KvLayerGroup& group = geometry.groups.back();
  for (int layer = 0; layer < header->layers; ++layer) group.layers.push_back(layer);
  if (header->state) {
    if (header->state->rows != header->head_dim + 1 || header->state->columns != header->head_dim) {
      return 0;
    }
    group.segment = header->state->segment;
    core::KvLayerGroup keys = group;
    group.states = true;
    geometry.groups.push_back(std::move(keys));
  }
  if (!CheckRecord(checked, header->fingerprint, header->name, geometry).ok()) std::abort();
  core::HostMemory memory;
  const auto pool =
      PagePool::Create(memory, geometry, std::vector<int64_t>(geometry.groups.size(), 1));
  if (!pool.ok()) return 0;
  if (!LoadRecord(checked, header->name, *pool, 0, 0).ok()) std::abort();
  const auto again = EncodeRecord(header->fingerprint, header->name, *pool, 0, 0);
  if (*again != checked) std::abort();
  return 0;
}
