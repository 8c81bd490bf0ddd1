#include "core/model/family.h"

#include <algorithm>
#include <iterator>

namespace tandem::core {
namespace {

constexpr std::string_view kQkvBiases[] = {"attn_q.bias", "attn_k.bias", "attn_v.bias"};
constexpr std::string_view kFusedQkv[] = {"attn_qkv.weight"};
constexpr std::string_view kGpt2Parts[] = {"position_embd.weight", "attn_qkv.weight",
                                           "attn_qkv.bias",        "attn_output.bias",
                                           "ffn_up.bias",          "ffn_down.bias"};
constexpr std::string_view kGptNeoXParts[] = {"attn_qkv.weight", "attn_qkv.bias",
                                              "attn_output.bias", "ffn_up.bias", "ffn_down.bias"};
constexpr std::string_view kBloomParts[] = {
    "token_embd_norm.weight", "token_embd_norm.bias", "attn_qkv.weight", "attn_qkv.bias",
    "attn_output.bias",       "ffn_up.bias",          "ffn_down.bias"};
constexpr std::string_view kPhi2Parts[] = {"attn_output.bias", "ffn_up.bias", "ffn_down.bias",
                                           "output.bias"};

constexpr std::string_view kFalconNorms[] = {"attn_norm_2"};
constexpr std::string_view kLearnedPositions[] = {"position_embd.weight"};

constexpr std::string_view kGemma3Keys[] = {"attention.sliding_window_pattern",
                                            "rope.freq_base_swa"};
constexpr std::string_view kParallelKeys[] = {"use_parallel_residual"};
constexpr std::string_view kAlibiKeys[] = {"attention.max_alibi_bias"};

constexpr float kBloomMaxBias = 8.0F;

constexpr FamilyTraits kFamilies[] = {
    {.family = Family::kLlama, .architecture = "llama", .rope_layout = RopeLayout::kAdjacentPairs},
    {.family = Family::kQwen2, .architecture = "qwen2", .required = kQkvBiases},
    {.family = Family::kQwen3, .architecture = "qwen3", .query_key_norm = true},
    {.family = Family::kGemma3,
     .architecture = "gemma3",
     .activation = Activation::kGeluTanh,
     .query_key_norm = true,
     .post_norms = true,
     .keys = kGemma3Keys},
    {.family = Family::kGpt2,
     .architecture = "gpt2",
     .norm = NormKind::kLayer,
     .activation = Activation::kGeluTanh,
     .gated = false,
     .rotary = false,
     .required = kGpt2Parts},
    {.family = Family::kGptNeoX,
     .architecture = "gptneox",
     .norm = NormKind::kLayer,
     .activation = Activation::kGelu,
     .gated = false,
     .parallel_residual = true,
     .keys = kParallelKeys,
     .required = kGptNeoXParts},
    {.family = Family::kFalcon,
     .architecture = "falcon",
     .norm = NormKind::kLayer,
     .activation = Activation::kGelu,
     .gated = false,
     .parallel_residual = true,
     .feed_forward_norm = FeedForwardNorm::kUnlessParallel,
     .required = kFusedQkv,
     .optional = kFalconNorms},
    {.family = Family::kStarCoder2,
     .architecture = "starcoder2",
     .norm = NormKind::kLayer,
     .activation = Activation::kGeluTanh,
     .gated = false},
    {.family = Family::kStableLm,
     .architecture = "stablelm",
     .norm = NormKind::kLayer,
     .feed_forward_norm = FeedForwardNorm::kTells,
     .keys = kParallelKeys},
    {.family = Family::kPhi2,
     .architecture = "phi2",
     .norm = NormKind::kLayer,
     .activation = Activation::kGeluTanh,
     .gated = false,
     .parallel_residual = true,
     .feed_forward_norm = FeedForwardNorm::kUnlessParallel,
     .required = kPhi2Parts},
    {.family = Family::kBloom,
     .architecture = "bloom",
     .norm = NormKind::kLayer,
     .activation = Activation::kGeluTanh,
     .gated = false,
     .rotary = false,
     .alibi_max_bias = kBloomMaxBias,
     .keys = kAlibiKeys,
     .required = kBloomParts},
    {.family = Family::kMpt,
     .architecture = "mpt",
     .norm = NormKind::kLayer,
     .activation = Activation::kGelu,
     .gated = false,
     .rotary = false,
     .keys = kAlibiKeys,
     .required = kFusedQkv,
     .optional = kLearnedPositions},
};

}  // namespace

bool FamilyTraits::Knows(std::string_view part) const {
  const auto among = [part](std::span<const std::string_view> names) {
    return std::ranges::find(names, part) != names.end();
  };
  return among(required) || among(optional);
}

std::span<const FamilyTraits> Families() { return kFamilies; }

const FamilyTraits& TraitsOf(Family family) {
  return *std::find_if(std::begin(kFamilies), std::end(kFamilies),
                       [family](const FamilyTraits& traits) { return traits.family == family; });
}

}  // namespace tandem::core
