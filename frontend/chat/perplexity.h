#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "core/base/status.h"
#include "parallel/engine/engine.h"

namespace tandem::frontend {

/// How the tokens of a text are cut into chunks, and which of their tokens count: as llama.cpp's
/// llama-perplexity does it (tools/perplexity/perplexity.cpp), so that figures can be compared.
///
/// Without a stride, chunks of `context` tokens follow one another; a shorter one at the end is
/// dropped. The start token, where the model wants one, stands in the place of each chunk's first
/// token. What follows the position context / 2 counts. With a stride, a chunk of context + stride
/// / 2 tokens begins every `stride` tokens, and its last `stride` tokens count; no start token is
/// put in.
struct PerplexityCut {
  int32_t context = 512;
  std::optional<int32_t> stride;

  int64_t chunk_tokens() const { return context + int64_t{stride.value_or(0)} / 2; }
  /// The first position within a chunk whose token counts, at least 1.
  int64_t first_counted() const {
    return stride ? chunk_tokens() - *stride : int64_t{context} / 2 + 1;
  }
  /// A text has at least so many tokens.
  int64_t least_tokens() const { return 2 * chunk_tokens(); }
  /// Chunks of a text of so many.
  int64_t ChunksOf(int64_t tokens) const;
  /// That such chunks have tokens that count, and fit into the model's context. kInvalidArgument,
  /// kOutOfRange, naming the flags.
  absl::Status Check(int64_t model_context) const;
};

/// Log-probabilities of tokens, added in their order in double precision.
class PerplexitySum {
 public:
  void Add(float logprob);

  int64_t count() const { return count_; }
  /// Mean of -ln p; there must be a token.
  double mean() const { return sum_ / static_cast<double>(count_); }
  /// e to the mean.
  double perplexity() const;
  /// One standard error of it: that of the mean, times the perplexity. Nothing where fewer than two
  /// tokens say how they differ.
  std::optional<double> error() const;

 private:
  int64_t count_ = 0;
  double sum_ = 0;      // of -ln p
  double squares_ = 0;  // of its squares
};

struct PerplexityTask {
  std::span<const int32_t> tokens;     // of the whole text
  PerplexityCut cut;                   // that was checked; there is a chunk of these tokens
  std::optional<int64_t> most_chunks;  // from the first one
  std::optional<int32_t> start_token;  // that the model wants
  int32_t together = 2;                // chunks that the engine has at a time
};

/// After each chunk, in their order: its number from 1, how many there are, and the sum up to here.
using PerplexityProgress =
    std::function<void(int64_t chunk, int64_t chunks, const PerplexitySum& sum)>;

/// Runs the chunks of a text through the engine, several at a time, and adds up what it says of
/// their tokens: in the order of the text, so that the sum has the same bits however chunks were
/// batched. Errors are those of the engine, naming the chunk. The calling thread waits.
absl::StatusOr<PerplexitySum> MeasurePerplexity(parallel::Engine& engine,
                                                const PerplexityTask& task,
                                                const PerplexityProgress& progress);

}  // namespace tandem::frontend
