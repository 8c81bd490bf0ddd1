#include "core/cuda/cuda_step.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace tandem::core {
namespace {

/// Places of the block tables: [groups, tokens] where each token's begins in `blocks`.
std::vector<int32_t> TableBegins(const Batch& batch, std::vector<int32_t>& blocks) {
  const size_t tokens = batch.tokens.size();
  const size_t groups = batch.sequences.empty() ? 0 : batch.sequences[0].block_tables.size();
  std::vector<int32_t> begins(groups * tokens);
  for (const SequenceSlice& sequence : batch.sequences) {
    for (size_t group = 0; group < groups; ++group) {
      const auto first =
          begins.begin() + static_cast<int64_t>(group * tokens) + sequence.first_token;
      std::fill_n(first, sequence.tokens, static_cast<int32_t>(blocks.size()));
      const std::span<const BlockId> table = sequence.block_tables[group];
      blocks.insert(blocks.end(), table.begin(), table.end());
    }
  }
  return begins;
}

}  // namespace

CudaStep::CudaStep(const ModelConfig& config, CudaMemory& memory)
    : config_(config),
      has_local_(std::any_of(config.layer_window.begin(), config.layer_window.end(),
                             [](int window) { return window != 0; })),
      rope_(config.rope),
      local_rope_(config.local_rope),
      upload_(memory),
      device_(memory, 1) {}

void CudaStep::Begin(const Batch& batch) {
  positions_.resize(batch.tokens.size());
  neighbours_ = false;
  rope_.Begin();
  local_rope_.Begin();
  for (const SequenceSlice& sequence : batch.sequences) {
    neighbours_ = neighbours_ || sequence.tokens > 1;
    const int64_t end = int64_t{sequence.start_position} + sequence.tokens;
    rope_.Prepare(sequence.start_position, end);
    if (has_local_) local_rope_.Prepare(sequence.start_position, end);
    for (int32_t i = 0; i < sequence.tokens; ++i) {
      positions_[static_cast<size_t>(sequence.first_token) + static_cast<size_t>(i)] =
          sequence.start_position + i;
    }
  }
  std::vector<int32_t> blocks;
  const std::vector<int32_t> begins = TableBegins(batch, blocks);
  const size_t tokens = positions_.size();
  const size_t angle_words =
      2 * tokens *
      (config_.rope.inverse_frequencies.size() + config_.local_rope.inverse_frequencies.size());
  // Tables grow: they come last, and there is room, so that nothing moves from step to step.
  device_.SetRows(
      static_cast<int64_t>(std::bit_ceil(tokens + begins.size() + blocks.size() + angle_words)));
  words_.clear();
  places_.tokens = static_cast<int64_t>(tokens);
  places_.positions = Add(positions_);
  places_.table_begins = Add(begins);
  angles_ = AddAngles(rope_);
  local_angles_ = has_local_ ? AddAngles(local_rope_) : nullptr;
  places_.blocks = Add(blocks);
  const size_t bytes = words_.size() * sizeof(int32_t);
  if (bytes == 0) return;
  std::memcpy(upload_.Begin(bytes), words_.data(), bytes);
  upload_.Send(bytes, reinterpret_cast<std::byte*>(device_.data()));
}

const int32_t* CudaStep::Add(std::span<const int32_t> words) {
  const size_t at = words_.size();
  words_.insert(words_.end(), words.begin(), words.end());
  return device_.data() + at;
}

const float* CudaStep::AddAngles(const RopeTable& table) {
  const size_t at = words_.size();
  for (const int32_t position : positions_) {
    for (const std::span<const float> values : {table.cosines(position), table.sines(position)}) {
      for (const float value : values) words_.push_back(std::bit_cast<int32_t>(value));
    }
  }
  return reinterpret_cast<const float*>(device_.data() + at);
}

}  // namespace tandem::core
