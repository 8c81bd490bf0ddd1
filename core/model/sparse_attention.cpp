#include "core/model/sparse_attention.h"

#include <algorithm>
#include <array>
#include <utility>

#include "core/base/check.h"
#include "core/base/philox.h"

namespace tandem::core {
namespace {

int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Bits of [begin, end) in the 64 from `start` on.
uint64_t BitsOf(int64_t begin, int64_t end, int64_t start) {
  const int64_t from = std::clamp<int64_t>(begin - start, 0, kPageTokens);
  const int64_t to = std::clamp<int64_t>(end - start, 0, kPageTokens);
  return from >= to ? 0 : ~uint64_t{0} >> (kPageTokens - (to - from)) << from;
}

uint64_t Score(const AttentionForm& form, int layer, int64_t query_block, int64_t block) {
  const std::array<uint32_t, 4> words =
      Philox4x32({static_cast<uint32_t>(block), static_cast<uint32_t>(query_block),
                  static_cast<uint32_t>(layer), 0},
                 {static_cast<uint32_t>(form.seed), static_cast<uint32_t>(form.seed >> 32)});
  return uint64_t{words[1]} << 32 | words[0];
}

uint64_t KeyOf(int layer, int64_t query_block) {
  return uint64_t{static_cast<uint32_t>(layer)} << 32 | static_cast<uint32_t>(query_block);
}

}  // namespace

std::vector<int32_t> ChosenBlocks(const AttentionForm& form, int layer, int64_t query_block) {
  std::vector<int32_t> chosen;
  if (form.random == 0) return chosen;
  const int64_t begin = CeilDivide(form.global, kPageTokens);
  const int64_t reach = kPageTokens * query_block - form.window + 1;
  const int64_t end = reach < 0 ? 0 : reach / kPageTokens;
  if (end - begin <= form.random) {
    for (int64_t block = begin; block < end; ++block) chosen.push_back(static_cast<int32_t>(block));
    return chosen;
  }
  std::vector<std::pair<uint64_t, int32_t>> scored;
  for (int64_t block = begin; block < end; ++block) {
    scored.emplace_back(Score(form, layer, query_block, block), static_cast<int32_t>(block));
  }
  std::nth_element(scored.begin(), scored.begin() + form.random, scored.end());
  for (int i = 0; i < form.random; ++i) chosen.push_back(scored[static_cast<size_t>(i)].second);
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

uint64_t SparseSight::OfBlock(int64_t block) const {
  const int64_t start = block * kPageTokens;
  const uint64_t allowed = BitsOf(first, position + 1, start);
  if (allowed == 0) return 0;
  if (std::binary_search(chosen.begin(), chosen.end(), static_cast<int32_t>(block))) return allowed;
  return allowed & (BitsOf(0, global, start) | BitsOf(diagonal, position + 1, start));
}

bool SparseSight::SeesChunk(int64_t chunk) const {
  constexpr int64_t kPages = kChunkTokens / kPageTokens;
  for (int64_t page = chunk * kPages; page < (chunk + 1) * kPages; ++page) {
    if (OfBlock(page) != 0) return true;
  }
  return false;
}

void SparseSight::AppendChunks(std::vector<int32_t>& chunks) const {
  const auto chunk_of = [](int64_t key) { return static_cast<int32_t>(key / kChunkTokens); };
  int32_t next = chunk_of(first);  // the lowest chunk that may still come
  const auto append = [&](int32_t begin, int32_t last) {
    for (int32_t chunk = std::max(begin, next); chunk <= last; ++chunk) chunks.push_back(chunk);
    next = std::max(next, last + 1);
  };
  const int64_t global_last = std::min(global, position + 1) - 1;
  if (global_last >= first) append(chunk_of(first), chunk_of(global_last));
  for (const int32_t block : chosen) {
    const int64_t start = int64_t{block} * kPageTokens;
    if (start + kPageTokens > first) append(chunk_of(start), chunk_of(start));
  }
  append(chunk_of(std::max(first, diagonal)), chunk_of(position));
}

void SparseAttention::Begin() {
  constexpr size_t kMostKept = size_t{4} << 20;
  if (kept_ + chosen_.size() <= kMostKept) return;
  chosen_.clear();
  kept_ = 0;
}

void SparseAttention::Prepare(int layer, int64_t first, int64_t last) {
  if (form_.random == 0) return;
  for (int64_t block = first / kPageTokens; block <= last / kPageTokens; ++block) {
    const auto [place, added] = chosen_.try_emplace(KeyOf(layer, block));
    if (!added) continue;
    place->second = ChosenBlocks(form_, layer, block);
    kept_ += place->second.size();
  }
}

SparseSight SparseAttention::SightOf(int layer, int layer_window, int64_t position) const {
  SparseSight sight{
      .position = position,
      .first = layer_window == 0 ? 0 : std::max<int64_t>(0, position - layer_window + 1),
      .global = form_.global,
      .diagonal = std::max<int64_t>(0, position - form_.window + 1),
      .chosen = {}};
  if (form_.random == 0) return sight;
  const auto found = chosen_.find(KeyOf(layer, position / kPageTokens));
  TANDEM_CHECK(found != chosen_.end(), "no blocks were chosen for a query");
  sight.chosen = found->second;
  return sight;
}

}  // namespace tandem::core
