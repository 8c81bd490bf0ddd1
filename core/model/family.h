#pragma once

#include <initializer_list>
#include <span>
#include <string_view>

#include "core/model/norm.h"

namespace tandem::core {

enum class Family {
  kLlama,
  kQwen2,
  kQwen3,
  kGemma3,
  kGpt2,
  kGptNeoX,
  kFalcon,
  kStarCoder2,
  kStableLm,
  kPhi2,
  kBloom,
  kMpt,
};

enum class RopeLayout {
  kAdjacentPairs,  // (0,1), (2,3), ...: GGUF files of the llama family, whose rows are permuted
  kHalves,         // (0,d/2), (1,d/2+1), ...: all others
};

enum class Activation {
  kSilu,
  kGeluTanh,  // the tanh form
  kGelu,      // by the error function
};

/// Whether the feed-forward block has a norm of its own.
enum class FeedForwardNorm {
  kAlways,
  kUnlessParallel,  // a parallel block has one norm, which attention and feed-forward share
  kTells,           // where the file has none, the block is parallel, whatever its keys say
};

/// What tells a family apart from the others, as data: the forward pass knows no family. Parts of a
/// file are named as ModelConfig::parts has them.
struct FamilyTraits {
  Family family = Family::kLlama;
  std::string_view architecture;  // general.architecture of its GGUF files
  NormKind norm = NormKind::kRms;
  Activation activation = Activation::kSilu;
  bool gated = true;  // feed-forward: activation(gate x) * up x, else activation(up x)
  bool rotary = true;
  RopeLayout rope_layout = RopeLayout::kHalves;
  bool parallel_residual = false;  // where the file does not say
  FeedForwardNorm feed_forward_norm = FeedForwardNorm::kAlways;
  bool query_key_norm = false;
  bool post_norms = false;                          // behind attention and feed-forward
  float alibi_max_bias = 0.0F;                      // where the file does not say; 0: no ALiBi
  std::span<const std::string_view> keys = {};      // of the architecture, that others do not have
  std::span<const std::string_view> required = {};  // parts without which a file is damaged
  std::span<const std::string_view> optional = {};  // parts or norms that others must not have

  /// Whether a part, or a norm by its name alone, is among those that are required or optional.
  bool Knows(std::string_view part) const;
};

std::span<const FamilyTraits> Families();
const FamilyTraits& TraitsOf(Family family);
inline std::string_view FamilyName(Family family) { return TraitsOf(family).architecture; }

}  // namespace tandem::core
