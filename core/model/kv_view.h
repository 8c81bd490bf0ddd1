#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tandem::core {

inline constexpr int kPageTokens = 64;  // tokens of a page
inline constexpr int kChunkTokens =
    256;  // absolute positions of an attention chunk (numerics.md, rule 4)

/// What keys and values are rounded to. The numbers stand in records (record_format.md).
enum class KvDtype : uint8_t { kF16 = 0, kF32 = 1, kF8 = 2 };
inline constexpr KvDtype kKvDtypes[] = {KvDtype::kF16, KvDtype::kF32, KvDtype::kF8};

inline constexpr const char* KvDtypeName(KvDtype dtype) {
  constexpr const char* kNames[] = {"f16", "f32", "f8"};
  return kNames[static_cast<size_t>(dtype)];
}
inline constexpr int64_t KvElementBytes(KvDtype dtype) {
  constexpr int64_t kBytes[] = {2, 4, 1};
  return kBytes[static_cast<size_t>(dtype)];
}
/// Of the float32 that all elements of a token's key, or value, are multiplied with.
inline constexpr int64_t KvScaleBytes(KvDtype dtype) { return dtype == KvDtype::kF8 ? 4 : 0; }
/// One token's key, or value, of one KV head in one layer.
inline constexpr int64_t KvVectorBytes(KvDtype dtype, int64_t head_dim) {
  return head_dim * KvElementBytes(dtype) + KvScaleBytes(dtype);
}

/// A logical block: 64 consecutive tokens of one sequence, in all layers of one layer group and all
/// KV heads of the rank. The coordinator gives out ids; every rank resolves them in its own pool.
using BlockId = int32_t;
inline constexpr BlockId kNoBlock = -1;  // a position that nobody will see again

/// Layers that need the same positions share blocks: full-attention layers are one group,
/// sliding-window layers another. A token at position p, and those behind it, need no key but those
/// of (p - window, p] and [0, global).
struct KvLayerGroup {
  int window = 0;           // 0 = full attention
  std::vector<int> layers;  // ascending
  int global = 0;           // 0 without a window
  int global_reach = 0;     // above 0: of [0, global) only those of (p - global_reach, p]
};

/// The shape of a rank's KV pool.
struct KvGeometry {
  std::vector<KvLayerGroup> groups;
  int layers = 0;
  int kv_heads = 0;  // held by this rank
  int head_dim = 0;
  KvDtype dtype = KvDtype::kF16;

  /// Keys and values of 64 tokens of one KV head in one layer.
  int64_t PageBytes() const { return 2LL * kPageTokens * KvVectorBytes(dtype, head_dim); }
  /// One block of group g on this rank.
  int64_t BlockBytes(size_t g) const {
    return PageBytes() * kv_heads * static_cast<int64_t>(groups[g].layers.size());
  }
};

/// One page: 64 tokens of one KV head in one layer.
struct KvPage {
  std::byte* keys;    // [head_dim, 64] dtype: transposed, tokens in the vector lanes
  std::byte* values;  // [64, head_dim] dtype

  // Of the keys and the values: [2, 64] where the dtype has them, behind the values, else null.
  float* scales = nullptr;
};

/// The pages that attention reads and writes: plain addresses into a pool that somebody else owns
/// (kv_store/pages/page_pool). Thread safety: resolving is const; writers and readers of one page
/// are ordered by the step.
class KvView {
 public:
  struct LayerPlace {
    std::byte* base = nullptr;  // this layer's part of block 0
    int64_t block_stride = 0;   // bytes from block to block of this layer's group
    int group = 0;              // index into a sequence's block tables
  };

  KvView() = default;
  KvView(KvGeometry geometry, std::vector<LayerPlace> places)
      : geometry_(std::move(geometry)), places_(std::move(places)) {}

  const KvGeometry& geometry() const { return geometry_; }
  int group_of(int layer) const { return place(layer).group; }
  const LayerPlace& place(int layer) const { return places_[static_cast<size_t>(layer)]; }

  /// The page of `block` in `layer` for the rank's kv_head (0-based within the rank).
  KvPage Page(int layer, int kv_head, BlockId block) const {
    const LayerPlace& at = place(layer);
    std::byte* keys = at.base + block * at.block_stride + kv_head * geometry_.PageBytes();
    const int64_t bytes = kPageTokens * geometry_.head_dim * KvElementBytes(geometry_.dtype);
    std::byte* behind = keys + 2 * bytes;
    const bool scaled = KvScaleBytes(geometry_.dtype) != 0;
    return {keys, keys + bytes, scaled ? reinterpret_cast<float*>(behind) : nullptr};
  }

 private:
  KvGeometry geometry_;
  std::vector<LayerPlace> places_;  // [layers]
};

}  // namespace tandem::core
