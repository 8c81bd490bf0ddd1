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
/// of (p - window, p] and [0, global); with a segment, no key but those of their own segment.
///
/// In a group of states a block that ends where a segment does holds what its layers remember of
/// all segments up to there; other blocks of a sequence have nothing in it. A token needs the state
/// at the start of its segment.
struct KvLayerGroup {
  int window = 0;           // 0 = full attention
  std::vector<int> layers;  // ascending
  int global = 0;           // 0 without a window
  int global_reach = 0;     // above 0: of [0, global) only those of (p - global_reach, p]
  int segment = 0;          // above 0: a multiple of kPageTokens, and no window
  bool states = false;      // with a segment
  int state_interval = 0;   // of states: tokens, one in each is kept though none needs it

  /// Whether a token may ever leave keys behind that no later one needs.
  bool leaves_behind() const { return window > 0 || segment > 0; }
  /// Whether the block at this place of a sequence has anything in this group.
  bool Holds(int64_t block) const { return !states || (block + 1) * kPageTokens % segment == 0; }
  /// Whether the state of a block is the first one behind a multiple of the interval.
  bool Keeps(int64_t block) const {
    const int64_t end = (block + 1) * kPageTokens;
    return end / state_interval != (end - segment) / state_interval;
  }
  bool operator==(const KvLayerGroup&) const = default;
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
  /// What a KV head remembers in one layer: float32 [head_dim, head_dim] of memory and [head_dim]
  /// of its normalizer.
  int64_t StateBytes() const {
    return (int64_t{head_dim} + 1) * head_dim * static_cast<int64_t>(sizeof(float));
  }
  /// A page of group g, or a state.
  int64_t PartBytes(size_t g) const { return groups[g].states ? StateBytes() : PageBytes(); }
  /// How many groups hold states: the last ones.
  int32_t StateGroups() const {
    int32_t count = 0;
    for (const KvLayerGroup& group : groups) count += group.states ? 1 : 0;
    return count;
  }
  /// One block of group g on this rank.
  int64_t BlockBytes(size_t g) const {
    return PartBytes(g) * kv_heads * static_cast<int64_t>(groups[g].layers.size());
  }
};

/// One page: 64 tokens of one KV head in one layer.
struct KvPage {
  std::byte* keys;    // [head_dim, 64] dtype: transposed, tokens in the vector lanes
  std::byte* values;  // [64, head_dim] dtype

  // Of the keys and the values: [2, 64] where the dtype has them, behind the values, else null.
  float* scales = nullptr;
};

/// What a KV head remembers in one layer.
struct KvState {
  float* memory;      // [head_dim, head_dim]: keys' dimensions, values' dimensions
  float* normalizer;  // [head_dim]
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
  /// states: [layers], or none.
  KvView(KvGeometry geometry, std::vector<LayerPlace> places, std::vector<LayerPlace> states = {})
      : geometry_(std::move(geometry)), places_(std::move(places)), states_(std::move(states)) {}

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

  /// Where a layer's states are; it has some.
  const LayerPlace& states(int layer) const { return states_[static_cast<size_t>(layer)]; }
  /// The state in `block` of the group of states.
  KvState State(int layer, int kv_head, BlockId block) const {
    const LayerPlace& at = states(layer);
    auto* memory = reinterpret_cast<float*>(at.base + block * at.block_stride +
                                            kv_head * geometry_.StateBytes());
    return {memory, memory + int64_t{geometry_.head_dim} * geometry_.head_dim};
  }

 private:
  KvGeometry geometry_;
  std::vector<LayerPlace> places_;  // [layers]
  std::vector<LayerPlace> states_;  // [layers]
};

}  // namespace tandem::core
