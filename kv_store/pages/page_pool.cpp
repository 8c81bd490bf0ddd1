#include "kv_store/pages/page_pool.h"

#include <limits>
#include <utility>

namespace tandem::kv_store {

absl::StatusOr<PagePool> PagePool::Create(core::DeviceMemory& memory, core::KvGeometry geometry,
                                          const std::vector<int64_t>& blocks) {
  if (geometry.groups.size() != blocks.size()) {
    return InvalidArgument("KV pool: {} layer groups but {} block counts", geometry.groups.size(),
                           blocks.size());
  }
  if (geometry.kv_heads < 1 || geometry.head_dim < 1) {
    return InvalidArgument("KV pool: {} KV heads of {} dimensions; both must be at least 1",
                           geometry.kv_heads, geometry.head_dim);
  }
  PagePool pool(memory);
  std::vector<core::KvView::LayerPlace> places(static_cast<size_t>(geometry.layers));
  std::vector<core::KvView::LayerPlace> states(places.size());
  for (size_t g = 0; g < blocks.size(); ++g) {
    const int64_t stride = geometry.BlockBytes(g);
    if (blocks[g] < 1 || blocks[g] > std::numeric_limits<core::BlockId>::max() ||
        (stride > 0 && blocks[g] > std::numeric_limits<int64_t>::max() / stride)) {
      return InvalidArgument("KV pool: {} blocks of {} bytes in layer group {} are out of range",
                             blocks[g], stride, g);
    }
    absl::StatusOr<std::shared_ptr<std::byte>> region = memory.AllocateZeroed(blocks[g] * stride);
    if (!region.ok()) {
      return ResourceExhausted("KV pool: {} blocks of {} bytes cannot be had ({})", blocks[g],
                               stride, Message(region.status()));
    }
    for (size_t i = 0; i < geometry.groups[g].layers.size(); ++i) {
      const int layer = geometry.groups[g].layers[i];
      auto& of_kind = geometry.groups[g].states ? states : places;
      if (layer < 0 || layer >= geometry.layers ||
          of_kind[static_cast<size_t>(layer)].base != nullptr) {
        return InvalidArgument("KV pool: layer {} of group {} is out of range or in two groups",
                               layer, g);
      }
      of_kind[static_cast<size_t>(layer)] = {
          .base =
              region->get() + static_cast<int64_t>(i) * geometry.kv_heads * geometry.PartBytes(g),
          .block_stride = stride,
          .group = static_cast<int>(g)};
    }
    pool.regions_.push_back(*std::move(region));
    pool.bytes_ += blocks[g] * stride;
  }
  for (int layer = 0; layer < geometry.layers; ++layer) {
    if (places[static_cast<size_t>(layer)].base == nullptr) {
      return InvalidArgument("KV pool: layer {} is in no layer group", layer);
    }
  }
  pool.blocks_ = blocks;
  pool.view_ = core::KvView(std::move(geometry), std::move(places), std::move(states));
  return pool;
}

absl::StatusOr<std::shared_ptr<core::DeviceCopy>> PagePool::BeginCopy(
    core::CopyDirection direction, size_t group, core::BlockId block, const PagePool& on_host,
    core::BlockId host_block) const {
  const core::CopyRun run{.device = Block(group, block),
                          .host = on_host.Block(group, host_block),
                          .bytes = static_cast<size_t>(view_.geometry().BlockBytes(group))};
  return memory_->BeginCopy(direction, {&run, 1});
}

absl::Status PagePool::CopyBlock(size_t group, core::BlockId from, core::BlockId to) const {
  const core::KvGeometry& geometry = view_.geometry();
  if (geometry.groups[group].states) {
    return Internal("KV pool: a state was to be copied, which nobody writes to");
  }
  for (const int layer : geometry.groups[group].layers) {
    // The pages of a layer's KV heads stand side by side.
    TANDEM_RETURN_IF_ERROR(
        memory_->CopyWithin(view_.Page(layer, 0, to).keys, view_.Page(layer, 0, from).keys,
                            static_cast<size_t>(geometry.PageBytes() * geometry.kv_heads)));
  }
  return absl::OkStatus();
}

}  // namespace tandem::kv_store
