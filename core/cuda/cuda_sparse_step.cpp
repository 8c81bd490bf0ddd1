#include "core/cuda/cuda_sparse_step.h"

#include <algorithm>
#include <cstring>

namespace tandem::core {
namespace {

static_assert(sizeof(SparseChunk) == 2 * sizeof(int32_t));

/// The chunks of which some token sees a key, ascending, with what was chosen for each.
std::vector<SparseChunk> ChunksOf(const std::vector<SparseSight>& tokens) {
  std::vector<int32_t> seen;
  for (const SparseSight& token : tokens) token.AppendChunks(seen);
  std::sort(seen.begin(), seen.end());
  seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
  std::vector<SparseChunk> chunks;
  chunks.reserve(seen.size());
  for (const int32_t chunk : seen) chunks.push_back({.chunk = chunk});
  constexpr int32_t kPages = kChunkTokens / kPageTokens;
  for (size_t t = 0; t < tokens.size(); ++t) {
    for (const int32_t block : tokens[t].chosen) {
      const auto found = std::ranges::lower_bound(chunks, block / kPages, {}, &SparseChunk::chunk);
      // The layer's own window may have left it behind.
      if (found == chunks.end() || found->chunk != block / kPages) continue;
      found->chosen |= 1U << (t * kPages + static_cast<size_t>(block % kPages));
    }
  }
  return chunks;
}

}  // namespace

CudaSparseStep::CudaSparseStep(const ModelConfig& config, CudaMemory& memory)
    : config_(config), attention_(config.attention), upload_(memory), device_(memory, 1) {
  const auto window_of = [&](int layer) { return config.layer_window[Index(layer)]; };
  for (int layer = 0; layer < config.layers; ++layer) {
    // Without random blocks layers differ in their windows alone.
    auto same = lists_.end();
    if (config.attention.random == 0) {
      same = std::ranges::find_if(
          lists_, [&](const Lists& lists) { return window_of(lists.layer) == window_of(layer); });
    }
    list_of_.push_back(static_cast<size_t>(same - lists_.begin()));
    if (same == lists_.end()) lists_.push_back({.layer = layer});
  }
}

void CudaSparseStep::Begin(std::span<const int32_t> positions, int group_tokens) {
  attention_.Begin();
  words_.clear();
  for (Lists& lists : lists_) Add(positions, group_tokens, lists);
  const size_t bytes = words_.size() * sizeof(int32_t);
  device_.SetRows(static_cast<int64_t>(words_.size()));
  std::memcpy(upload_.Begin(bytes), words_.data(), bytes);
  upload_.Send(bytes, reinterpret_cast<std::byte*>(device_.data()));
}

void CudaSparseStep::Add(std::span<const int32_t> positions, int group_tokens, Lists& lists) {
  const auto together = static_cast<size_t>(group_tokens);
  const int window = config_.layer_window[Index(lists.layer)];
  std::vector<int32_t> begins = {0};
  std::vector<SparseChunk> all;
  lists.most = 0;
  for (size_t first = 0; first < positions.size(); first += together) {
    std::vector<SparseSight> tokens;
    for (const int32_t p : positions.subspan(first, std::min(together, positions.size() - first))) {
      attention_.Prepare(lists.layer, p, p);
      tokens.push_back(attention_.SightOf(lists.layer, window, p));
    }
    const std::vector<SparseChunk> chunks = ChunksOf(tokens);
    all.insert(all.end(), chunks.begin(), chunks.end());
    begins.push_back(static_cast<int32_t>(all.size()));
    lists.most = std::max(lists.most, static_cast<int64_t>(chunks.size()));
  }
  lists.begins = words_.size();
  words_.insert(words_.end(), begins.begin(), begins.end());
  lists.chunks = words_.size();
  for (const SparseChunk& chunk : all) {
    words_.push_back(chunk.chunk);
    words_.push_back(static_cast<int32_t>(chunk.chosen));
  }
}

SparseStep CudaSparseStep::Of(int layer) const {
  const Lists& lists = lists_[list_of_[Index(layer)]];
  return {.window = config_.attention.window,
          .global = config_.attention.global,
          .begins = device_.data() + lists.begins,
          .chunks = reinterpret_cast<const SparseChunk*>(device_.data() + lists.chunks)};
}

}  // namespace tandem::core
