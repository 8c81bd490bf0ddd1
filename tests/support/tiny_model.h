#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <ostream>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/model/config.h"
#include "core/model/dtype.h"
#include "tests/support/gguf_writer.h"

namespace tandem::testing {

/// The shape of a random model. Any family with any of these numbers.
struct TinyModelSpec {
  core::Family family = core::Family::kLlama;
  int layers = 2;
  int dim = 64;
  int ffn_dim = 160;
  int heads = 4;
  int kv_heads = 2;
  int head_dim = 32;
  int vocab = 100;
  int context = 1024;
  int window = 24;  // of gemma3; others have none
  /// Of the matrices. Where rows are no whole blocks of it, Q8_0 is taken, or F16, as converters
  /// do.
  core::DType dtype = core::DType::kF32;
  core::DType embedding_dtype = core::DType::kF32;  // of the embedding and the head
  bool tied_head = true;
  std::optional<core::NormKind> norm = {};        // as the file says; else the family's
  std::set<std::string, std::less<>> parts = {};  // that it has besides (ModelConfig::parts)
  float epsilon = 1e-6F;                          // of norms
  bool norm_weights = true;    // needs `norm` or a family with LayerNorm if false
  bool output_biases = false;  // of the attention's output and the feed-forward's
  /// Adds a byte-level tokenizer: 256 bytes, then <|endoftext|>, <|im_start|>, <|im_end|>, then
  /// unused tokens. vocab must be at least 260.
  bool tokenizer = false;
  uint64_t seed = 1;
  /// Elements of a vector of that name, where they are not to be random; else nothing.
  std::function<std::vector<float>(std::string_view name)> vectors = {};
  /// Called last, to add metadata of one's own (RoPE scaling, a tokenizer).
  std::function<void(GgufWriter&)> metadata = {};
};

/// A model that devices, ranks and instruction sets are held to one another with.
struct TinyModelShape {
  const char* name;
  TinyModelSpec spec;

  /// GoogleTest prints this.
  friend std::ostream& operator<<(std::ostream& out, const TinyModelShape& shape) {
    return out << shape.name;
  }
};
/// All families, odd splits of heads, and types of each kind.
std::vector<TinyModelShape> TinyModelShapes();
/// Those of them that differ in how they attend and are cut, for tests of what has nothing to do
/// with the rest of a layer.
std::vector<TinyModelShape> AttentionShapes();

/// A GGUF file with llama.cpp's names and random weights, the same for the same spec. Matrices are
/// uniform within about 1 / sqrt(columns), so activations neither die nor explode; quantized types
/// get random codes, scales and minimums of that range.
std::vector<std::byte> TinyModel(const TinyModelSpec& spec);

/// Of such a file: enough of its config to list its tensors, and what it says before them.
core::ModelConfig ConfigOf(const TinyModelSpec& spec);
void AddMetadata(const TinyModelSpec& spec, GgufWriter& writer);

/// The same as a file on disk.
TempFile WriteTinyModel(const TinyModelSpec& spec);

/// Random valid blocks of `elements` values of about uniform distribution within [-range, range].
std::vector<std::byte> RandomBlocks(core::DType dtype, int64_t elements, float range,
                                    uint64_t seed);

}  // namespace tandem::testing
