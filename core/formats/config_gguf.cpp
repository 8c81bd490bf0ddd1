#include "core/formats/config_gguf.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <set>
#include <string_view>
#include <utility>

#include "core/formats/rope_gguf.h"

namespace tandem::core {
namespace {

// Above every known model, and low enough that no product of them overflows int64.
constexpr uint32_t kMaxLayers = 1024;
constexpr uint32_t kMaxDim = 1 << 17;
constexpr uint32_t kMaxFfnDim = 1 << 20;
constexpr uint32_t kMaxHeadDim = 1024;
constexpr uint32_t kMaxVocab = 1 << 22;
constexpr uint32_t kMaxContext = 1 << 26;

constexpr uint32_t kGemma3WindowPattern = 6;  // every sixth layer is a full one
constexpr float kGemma3LocalBase = 10000.0F;
constexpr int kGemma3Layers27B = 62;

constexpr std::string_view kParallelResidual = "use_parallel_residual";

constexpr uint32_t kQuantizationVersion = 2;  // of the layout of quantized blocks

/// "a, b or c", of all families.
std::string SupportedArchitectures() {
  std::string text;
  for (const FamilyTraits& traits : Families()) {
    if (!text.empty()) text += &traits == &Families().back() ? " or " : ", ";
    text += traits.architecture;
  }
  return text;
}

const FamilyTraits* FindFamily(std::string_view architecture) {
  for (const FamilyTraits& traits : Families()) {
    if (traits.architecture == architecture) return &traits;
  }
  return nullptr;
}

/// Reads the keys of one architecture: Number("block_count", ...) reads "llama.block_count".
class Keys {
 public:
  Keys(const GgufFile& file, std::string_view architecture)
      : file_(file), architecture_(architecture) {}

  const std::string& architecture() const { return architecture_; }
  std::string Full(std::string_view key) const { return fmt::format("{}.{}", architecture_, key); }

  /// A number from 1 to `high`. A value a layer is taken where all layers have the same.
  absl::StatusOr<int> Number(std::string_view key, uint32_t high) const {
    const std::string full = Full(key);
    const GgufEntry* entry = file_.Find(full);
    if (entry == nullptr) {
      return NotFound("{}: key '{}' is missing, expected a number from 1 to {}", file_.path(), full,
                      high);
    }
    if (entry->type == GgufType::kArray) return SameForAllLayers(full, high);
    TANDEM_ASSIGN_OR_RETURN(const uint32_t value, file_.U32(full));
    return Bounded(full, value, high);
  }

  absl::StatusOr<int> NumberOr(std::string_view key, uint32_t high, int fallback) const {
    if (!file_.Has(Full(key))) return fallback;
    return Number(key, high);
  }

 private:
  absl::StatusOr<int> Bounded(const std::string& key, int64_t value, uint32_t high) const {
    if (value < 1 || value > high) {
      return InvalidArgument("{}: key '{}' is {}, expected a number from 1 to {}", file_.path(),
                             key, value, high);
    }
    return static_cast<int>(value);
  }

  absl::StatusOr<int> SameForAllLayers(const std::string& key, uint32_t high) const {
    TANDEM_ASSIGN_OR_RETURN(const std::vector<int64_t> values, file_.Integers(key));
    if (values.empty()) {
      return InvalidArgument("{}: key '{}' is an empty array, expected a number", file_.path(),
                             key);
    }
    for (const int64_t value : values) {
      if (value != values[0]) {
        return Unimplemented(
            "{}: key '{}' differs from layer to layer ({} and {}), expected the same everywhere",
            file_.path(), key, values[0], value);
      }
    }
    return Bounded(key, values[0], high);
  }

  const GgufFile& file_;
  std::string architecture_;
};

absl::Status ReadShape(const GgufFile& file, const Keys& keys, ModelConfig& config) {
  TANDEM_ASSIGN_OR_RETURN(config.layers, keys.Number("block_count", kMaxLayers));
  TANDEM_ASSIGN_OR_RETURN(config.dim, keys.Number("embedding_length", kMaxDim));
  TANDEM_ASSIGN_OR_RETURN(config.ffn_dim, keys.Number("feed_forward_length", kMaxFfnDim));
  TANDEM_ASSIGN_OR_RETURN(config.context, keys.Number("context_length", kMaxContext));
  TANDEM_ASSIGN_OR_RETURN(config.heads, keys.Number("attention.head_count", uint32_t{kMaxHeads}));
  TANDEM_ASSIGN_OR_RETURN(
      config.kv_heads, keys.NumberOr("attention.head_count_kv", uint32_t{kMaxHeads}, config.heads));
  if (config.kv_heads > config.heads || config.heads % config.kv_heads != 0) {
    return InvalidArgument(
        "{}: {} query heads on {} KV heads, expected a multiple (keys '{}' and '{}')", file.path(),
        config.heads, config.kv_heads, keys.Full("attention.head_count"),
        keys.Full("attention.head_count_kv"));
  }

  const std::string key_length = keys.Full("attention.key_length");
  if (!file.Has(key_length) && config.dim % config.heads != 0) {
    return InvalidArgument(
        "{}: embedding length {} is no multiple of {} query heads, and key '{}' is missing",
        file.path(), config.dim, config.heads, key_length);
  }
  TANDEM_ASSIGN_OR_RETURN(config.head_dim, keys.NumberOr("attention.key_length", kMaxHeadDim,
                                                         config.dim / config.heads));
  if (config.head_dim < 2 || config.head_dim > int{kMaxHeadDim} || config.head_dim % 2 != 0) {
    return InvalidArgument("{}: the head dimension is {}, expected an even number from 2 to {}",
                           file.path(), config.head_dim, kMaxHeadDim);
  }
  TANDEM_ASSIGN_OR_RETURN(const int value_length,
                          keys.NumberOr("attention.value_length", kMaxHeadDim, config.head_dim));
  if (value_length != config.head_dim) {
    return Unimplemented("{}: key '{}' is {}, expected the same as of keys: {}", file.path(),
                         keys.Full("attention.value_length"), value_length, config.head_dim);
  }
  return absl::OkStatus();
}

absl::Status ReadVocabulary(const GgufFile& file, const Keys& keys, ModelConfig& config) {
  constexpr std::string_view kEmbedding = "token_embd.weight";
  const GgufTensor* table = file.FindTensor(kEmbedding);
  if (table == nullptr) {
    return NotFound("{}: tensor '{}' is missing", file.path(), kEmbedding);
  }
  if (table->rank != 2 || table->dims[0] != config.dim || table->dims[1] > kMaxVocab) {
    return InvalidArgument(
        "{}: tensor '{}': expected 2 dimensions, {} columns and at most {} rows, found {} "
        "dimensions, {} columns and {} rows",
        file.path(), kEmbedding, config.dim, kMaxVocab, table->rank, table->dims[0],
        table->dims[1]);
  }
  config.vocab = static_cast<int>(table->dims[1]);
  const std::string size_key = keys.Full("vocab_size");
  TANDEM_ASSIGN_OR_RETURN(const uint32_t size,
                          file.U32Or(size_key, static_cast<uint32_t>(config.vocab)));
  if (size != static_cast<uint32_t>(config.vocab)) {
    return InvalidArgument("{}: key '{}' is {}, but tensor '{}' has {} rows, one for each token",
                           file.path(), size_key, size, kEmbedding, config.vocab);
  }
  return absl::OkStatus();
}

/// Which of the norms the model has. A file may say another one than its family has.
absl::Status ReadNorm(const GgufFile& file, const Keys& keys, ModelConfig& config) {
  const std::string key = keys.Full("norm_type");
  // Families of this kind have had files without weights.
  config.norm_weights = config.norm == NormKind::kRms && !file.Has(key);
  if (!file.Has(key)) return absl::OkStatus();
  TANDEM_ASSIGN_OR_RETURN(const std::string_view type, file.String(key));
  for (const auto& [name, kind] : {std::pair{"rms", NormKind::kRms},
                                   {"layer", NormKind::kLayer},
                                   {"batch", NormKind::kBatch}}) {
    if (type != name) continue;
    config.norm = kind;
    return absl::OkStatus();
  }
  return InvalidArgument("{}: key '{}' is \"{}\", expected rms, layer or batch", file.path(), key,
                         PrintableText(type));
}

/// The epsilon of a kind of norm, from its own key or else from the other. That of kBatch may be 0.
absl::StatusOr<float> ReadEpsilon(const GgufFile& file, const Keys& keys, NormKind kind) {
  std::string key = keys.Full("attention.layer_norm_rms_epsilon");
  std::string other = keys.Full("attention.layer_norm_epsilon");
  if (kind != NormKind::kRms) std::swap(key, other);
  if (!file.Has(key) && file.Has(other)) std::swap(key, other);
  TANDEM_ASSIGN_OR_RETURN(const float epsilon, file.Float(key));
  const bool positive = epsilon > 0.0F || (kind == NormKind::kBatch && epsilon == 0.0F);
  if (!(positive && epsilon < 1.0F)) {
    return InvalidArgument("{}: key '{}' is {}, expected a number between 0 and 1", file.path(),
                           key, epsilon);
  }
  return epsilon;
}

/// The epsilons of the norms that the model has.
absl::Status ReadEpsilons(const GgufFile& file, const Keys& keys, ModelConfig& config) {
  TANDEM_ASSIGN_OR_RETURN(config.norm_epsilon, ReadEpsilon(file, keys, config.norm));
  if (config.query_key_norm) {
    TANDEM_ASSIGN_OR_RETURN(config.head_norm_epsilon, ReadEpsilon(file, keys, NormKind::kRms));
  }
  if (config.HasNorm("token_embd_norm")) {
    TANDEM_ASSIGN_OR_RETURN(config.embedding_norm_epsilon,
                            ReadEpsilon(file, keys, NormKind::kLayer));
  }
  return absl::OkStatus();
}

/// Whether attention and feed-forward read the same residual.
absl::Status ReadResidual(const GgufFile& file, const Keys& keys, const FamilyTraits& traits,
                          ModelConfig& config) {
  const std::string_view name = kParallelResidual;
  const std::string key = keys.Full(name);
  TANDEM_ASSIGN_OR_RETURN(config.parallel_residual, file.BoolOr(key, traits.parallel_residual));
  if (traits.feed_forward_norm == FeedForwardNorm::kTells) {
    // Files of sequential models exist whose key says parallel.
    config.parallel_residual = !config.HasNorm("ffn_norm");
    return absl::OkStatus();
  }
  const bool may_differ = std::ranges::find(traits.keys, name) != traits.keys.end();
  if (may_differ || config.parallel_residual == traits.parallel_residual) return absl::OkStatus();
  return Unimplemented(
      "{}: key '{}' is {}: this is not supported for {} models; computing without it could give "
      "wrong answers",
      file.path(), key, config.parallel_residual, keys.architecture());
}

/// Names of the file's tensors, those of layers without "blk.0." (ModelConfig::parts).
std::set<std::string, std::less<>> PartsOf(const GgufFile& file, const FamilyTraits& traits) {
  constexpr std::string_view kFirstLayer = "blk.0.";
  std::set<std::string, std::less<>> parts(traits.required.begin(), traits.required.end());
  for (const GgufTensor& tensor : file.tensors()) {
    if (tensor.name.starts_with(kFirstLayer)) {
      parts.emplace(tensor.name.substr(kFirstLayer.size()));
    } else if (!tensor.name.starts_with("blk.")) {
      parts.emplace(tensor.name);
    }
  }
  return parts;
}

/// Windows of gemma3: layers 0 to 4 of every 6 see a sliding window, the last one everything.
absl::Status ReadGemma3Windows(const GgufFile& file, const Keys& keys, ModelConfig& config) {
  TANDEM_ASSIGN_OR_RETURN(const int window, keys.Number("attention.sliding_window", kMaxContext));
  const std::string pattern_key = keys.Full("attention.sliding_window_pattern");
  const GgufEntry* pattern = file.Find(pattern_key);
  const auto layers = static_cast<size_t>(config.layers);
  if (pattern != nullptr && pattern->type == GgufType::kArray) {
    TANDEM_ASSIGN_OR_RETURN(const std::vector<bool> sliding, file.Bools(pattern_key));
    if (sliding.size() != layers) {
      return InvalidArgument("{}: key '{}' has {} elements, expected one for each of {} layers",
                             file.path(), pattern_key, sliding.size(), layers);
    }
    for (size_t i = 0; i < layers; ++i) config.layer_window[i] = sliding[i] ? window : 0;
    return absl::OkStatus();
  }
  TANDEM_ASSIGN_OR_RETURN(const uint32_t period, file.U32Or(pattern_key, kGemma3WindowPattern));
  if (period < 1 || period > kMaxLayers) {
    return InvalidArgument("{}: key '{}' is {}, expected a number from 1 to {}", file.path(),
                           pattern_key, period, kMaxLayers);
  }
  for (size_t i = 0; i < layers; ++i) {
    config.layer_window[i] = i % period < period - 1 ? window : 0;
  }
  return absl::OkStatus();
}

absl::Status ReadGemma3(const GgufFile& file, const Keys& keys, ModelConfig& config) {
  TANDEM_RETURN_IF_ERROR(ReadGemma3Windows(file, keys, config));
  const std::string base_key = keys.Full("rope.freq_base_swa");
  TANDEM_ASSIGN_OR_RETURN(const float local_base, file.FloatOr(base_key, kGemma3LocalBase));
  if (!(local_base > 1.0F && local_base < 1e15F)) {
    return InvalidArgument("{}: key '{}' is {}, expected a number above 1", file.path(), base_key,
                           local_base);
  }
  config.local_rope = PlainRope(
      config.rope.layout, static_cast<int>(2 * config.rope.inverse_frequencies.size()), local_base);
  config.embedding_scale = std::sqrt(static_cast<float>(config.dim));
  // The 27B model alone scales by the embedding's share of a head (query_pre_attn_scalar 168).
  const float scale_dims = config.layers == kGemma3Layers27B
                               ? static_cast<float>(config.dim) / static_cast<float>(config.heads)
                               : static_cast<float>(config.head_dim);
  config.attention_scale = 1.0F / std::sqrt(scale_dims);
  return absl::OkStatus();
}

/// Each key of the architecture is one that is read, one that changes nothing, or a refusal: a key
/// that is new may change what the weights mean.
/// So are the keys of what is no model by itself.
absl::Status CheckKnownKeys(const GgufFile& file, const Keys& keys, const FamilyTraits& traits) {
  static constexpr std::string_view kKnown[] = {
      "block_count", "context_length", "embedding_length", "feed_forward_length",
      "attention.head_count", "attention.head_count_kv", "attention.key_length",
      "attention.value_length", "attention.layer_norm_rms_epsilon", "attention.causal",
      "rope.dimension_count", "rope.freq_base", "rope.scale_linear", "rope.scaling.type",
      "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.attn_factor",
      "rope.scaling.yarn_ext_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
      "attention.layer_norm_epsilon", "norm_type",
      // These change nothing: how the model was trained, what its tensors say anyway, or where its
      // rows came from.
      "rope.scaling.finetuned", "attention.sliding_window",
      // These are checked.
      "vocab_size", "tensor_data_layout", "attention.scale"};
  static constexpr std::string_view kScales[] = {"logit_scale", "residual_scale",
                                                 "embedding_scale"};
  static constexpr std::string_view kForeign[] = {"adapter.", "diffusion.", "xielu."};
  const std::string prefix = keys.Full("");
  for (const GgufEntry& entry : file.entries()) {
    for (const std::string_view foreign : kForeign) {
      if (!entry.key.starts_with(foreign) || file.IsNeutral(entry)) continue;
      return Unimplemented(
          "{}: key '{}' is {}: expected a whole model that generates text token by token, without "
          "keys that begin with '{}'",
          file.path(), PrintableText(entry.key), file.ValueText(entry), foreign);
    }
    if (!entry.key.starts_with(prefix) || file.IsNeutral(entry)) continue;
    const std::string_view key = entry.key.substr(prefix.size());
    const auto among = [key](const auto& names) {
      return std::find(std::begin(names), std::end(names), key) != std::end(names);
    };
    if (among(kKnown)) continue;
    if (among(traits.keys)) continue;
    if (among(kScales) && file.FloatOr(entry.key, 0.0F).value_or(0.0F) == 1.0F) continue;
    return Unimplemented(
        "{}: key '{}' is {}: this is not supported for {} models; computing without it could give "
        "wrong answers",
        file.path(), PrintableText(entry.key), file.ValueText(entry), keys.architecture());
  }
  return absl::OkStatus();
}

/// A window that the family does not have must not be felt.
absl::Status CheckNoWindow(const GgufFile& file, const Keys& keys, int context) {
  const std::string key = keys.Full("attention.sliding_window");
  TANDEM_ASSIGN_OR_RETURN(const uint32_t window, file.U32Or(key, 0));
  if (window == 0 || window >= static_cast<uint32_t>(context)) return absl::OkStatus();
  return Unimplemented(
      "{}: key '{}' is {}, below the context of {} tokens: sliding windows are not supported for "
      "{} models",
      file.path(), key, window, context, keys.architecture());
}

/// A scale of attention scores other than the family's own.
absl::Status CheckAttentionScale(const GgufFile& file, const Keys& keys, float expected) {
  constexpr float kRounding = 1e-6F;  // of what computed the value
  const std::string key = keys.Full("attention.scale");
  TANDEM_ASSIGN_OR_RETURN(const float scale, file.FloatOr(key, 0.0F));
  if (scale == 0.0F || std::abs(scale - expected) <= kRounding * expected) return absl::OkStatus();
  return Unimplemented(
      "{}: key '{}' is {}: only {} is supported here; computing with it could give wrong answers",
      file.path(), key, scale, expected);
}

/// Where rows and columns lie; all values that are known say the order that is taken anyway.
absl::Status CheckLayout(const GgufFile& file, const Keys& keys) {
  const std::string key = keys.Full("tensor_data_layout");
  TANDEM_ASSIGN_OR_RETURN(const std::string_view layout, file.StringOr(key, ""));
  if (layout.empty() || layout == "none" || layout == "reference" ||
      layout == "Meta AI original pth" ||
      // Queries, keys and values one after the other.
      (layout == "jploski" && keys.architecture() == FamilyName(Family::kFalcon))) {
    return absl::OkStatus();
  }
  return Unimplemented("{}: key '{}' is \"{}\", expected \"Meta AI original pth\" or \"reference\"",
                       file.path(), key, PrintableText(layout));
}

/// Refuses files whose metadata asks for arithmetic that the forward pass does not have, rather
/// than answer wrongly.
absl::Status CheckPlainArithmetic(const GgufFile& file, const Keys& keys,
                                  const FamilyTraits& traits) {
  const std::string experts_key = keys.Full("expert_count");
  TANDEM_ASSIGN_OR_RETURN(const uint32_t experts, file.U32Or(experts_key, 0));
  if (experts > 0) {
    return Unimplemented("{}: key '{}' is {}: mixtures of experts are not supported", file.path(),
                         experts_key, experts);
  }
  const std::string causal_key = keys.Full("attention.causal");
  TANDEM_ASSIGN_OR_RETURN(const bool causal, file.BoolOr(causal_key, true));
  if (!causal) {
    return Unimplemented("{}: key '{}' is false: only models that generate text are supported",
                         file.path(), causal_key);
  }
  const std::string pooling_key = keys.Full("pooling_type");
  TANDEM_ASSIGN_OR_RETURN(const uint32_t pooling, file.U32Or(pooling_key, 0));
  if (pooling != 0) {
    return Unimplemented(
        "{}: key '{}' is {}: this is a model of embeddings; only models that generate text are "
        "supported",
        file.path(), pooling_key, pooling);
  }
  constexpr std::string_view kType = "general.type";
  TANDEM_ASSIGN_OR_RETURN(const std::string_view type, file.StringOr(kType, "model"));
  if (type != "model") {
    return Unimplemented("{}: key '{}' is \"{}\", expected a file that holds a whole model",
                         file.path(), kType, PrintableText(type));
  }
  constexpr std::string_view kBlocks = "general.quantization_version";
  TANDEM_ASSIGN_OR_RETURN(const uint32_t blocks, file.U32Or(kBlocks, kQuantizationVersion));
  if (blocks != kQuantizationVersion) {
    return Unimplemented("{}: key '{}' is {}, expected {}; quantize the model again", file.path(),
                         kBlocks, blocks, kQuantizationVersion);
  }
  TANDEM_RETURN_IF_ERROR(CheckLayout(file, keys));
  return CheckKnownKeys(file, keys, traits);
}

/// How the model knows positions: by rotation, by the distance of keys, or by rows it has learned,
/// which CheckTensors looks for.
absl::Status ReadPositions(const GgufFile& file, const Keys& keys, const FamilyTraits& traits,
                           ModelConfig& config) {
  if (traits.rotary) {
    TANDEM_ASSIGN_OR_RETURN(config.rope, ReadRope(file, keys.architecture(), traits.rope_layout,
                                                  config.head_dim, config.context));
  }
  config.local_rope = config.rope;
  constexpr float kMostBias = 1e3F;
  const std::string key = keys.Full("attention.max_alibi_bias");
  TANDEM_ASSIGN_OR_RETURN(config.alibi_max_bias, file.FloatOr(key, traits.alibi_max_bias));
  if (!(config.alibi_max_bias >= 0.0F && config.alibi_max_bias <= kMostBias)) {
    return InvalidArgument("{}: key '{}' is {}, expected a number from 0 to {}", file.path(), key,
                           config.alibi_max_bias, kMostBias);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ReadConfig(const GgufFile& file) {
  TANDEM_ASSIGN_OR_RETURN(const std::string_view architecture, file.String("general.architecture"));
  const FamilyTraits* const traits = FindFamily(architecture);
  if (traits == nullptr) {
    return Unimplemented("{}: architecture \"{}\" is not supported, expected {}", file.path(),
                         PrintableText(architecture), SupportedArchitectures());
  }
  const Keys keys(file, architecture);
  ModelConfig config;
  config.family = traits->family;
  config.norm = traits->norm;
  config.activation = traits->activation;
  config.gated = traits->gated;
  config.query_key_norm = traits->query_key_norm;
  config.post_norms = traits->post_norms;
  config.parts = PartsOf(file, *traits);
  config.tied_head = !config.Has("output.weight");
  TANDEM_ASSIGN_OR_RETURN(const std::string_view name, file.StringOr("general.name", ""));
  config.name = PrintableText(name, 200);
  TANDEM_RETURN_IF_ERROR(CheckPlainArithmetic(file, keys, *traits));
  TANDEM_RETURN_IF_ERROR(ReadShape(file, keys, config));
  const bool gemma3 = traits->family == Family::kGemma3;
  if (!gemma3) TANDEM_RETURN_IF_ERROR(CheckNoWindow(file, keys, config.context));
  TANDEM_RETURN_IF_ERROR(ReadVocabulary(file, keys, config));
  TANDEM_RETURN_IF_ERROR(ReadNorm(file, keys, config));
  TANDEM_RETURN_IF_ERROR(ReadEpsilons(file, keys, config));
  TANDEM_RETURN_IF_ERROR(ReadResidual(file, keys, *traits, config));
  TANDEM_RETURN_IF_ERROR(ReadPositions(file, keys, *traits, config));
  config.layer_window.assign(static_cast<size_t>(config.layers), 0);
  config.attention_scale = 1.0F / std::sqrt(static_cast<float>(config.head_dim));
  if (gemma3) TANDEM_RETURN_IF_ERROR(ReadGemma3(file, keys, config));
  TANDEM_RETURN_IF_ERROR(CheckAttentionScale(file, keys, config.attention_scale));
  return config;
}

}  // namespace tandem::core
