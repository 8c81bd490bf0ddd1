#include "tests/support/tiny_model.h"

#include <cmath>
#include <stdexcept>
#include <string>

#include "core/formats/expected_tensors.h"
#include "tests/support/random.h"

namespace tandem::testing {

using core::DType;
using core::Family;

core::ModelConfig ConfigOf(const TinyModelSpec& spec) {
  core::ModelConfig config;
  config.family = spec.family;
  config.layers = spec.layers;
  config.dim = spec.dim;
  config.ffn_dim = spec.ffn_dim;
  config.heads = spec.heads;
  config.kv_heads = spec.kv_heads;
  config.head_dim = spec.head_dim;
  config.vocab = spec.vocab;
  const core::FamilyTraits& traits = core::TraitsOf(spec.family);
  config.context = spec.context;
  config.norm = spec.norm.value_or(traits.norm);
  config.norm_weights = spec.norm_weights;
  config.gated = traits.gated;
  config.parallel_residual = traits.parallel_residual;
  config.query_key_norm = traits.query_key_norm;
  config.post_norms = traits.post_norms;
  config.tied_head = spec.tied_head;
  config.parts.insert(traits.required.begin(), traits.required.end());
  config.parts.insert(spec.parts.begin(), spec.parts.end());
  if (spec.output_biases) config.parts.insert({"attn_output.bias", "ffn_down.bias"});
  // As the converters of these families write them.
  if (traits.norm == core::NormKind::kLayer) {
    config.parts.insert({"attn_norm.bias", "output_norm.bias"});
    if (config.HasFeedForwardNorm()) config.parts.insert("ffn_norm.bias");
  }
  return config;
}

namespace {

/// A code point as UTF-8; below 0x800.
std::string Utf8(uint32_t code_point) {
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3F))};
}

/// The visible character that byte-level BPE writes for a byte. Source: GPT-2's bytes_to_unicode.
std::string VisibleByte(uint32_t byte, uint32_t& next_substitute) {
  const bool visible = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
                       (byte >= 0xAE && byte <= 0xFF);
  return Utf8(visible ? byte : 0x100 + next_substitute++);
}

void AddTokenizer(const TinyModelSpec& spec, GgufWriter& writer) {
  constexpr int32_t kNormal = 1;
  constexpr int32_t kControl = 3;
  constexpr int32_t kUnused = 5;
  constexpr int kMinVocab = 260;
  if (spec.vocab < kMinVocab) throw std::invalid_argument("a tokenizer needs vocab >= 260");
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  uint32_t next_substitute = 0;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    tokens.push_back(VisibleByte(byte, next_substitute));
    types.push_back(kNormal);
  }
  const uint32_t end_of_text = 256;
  const uint32_t end_of_turn = 258;
  for (const char* control : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) {
    tokens.emplace_back(control);
    types.push_back(kControl);
  }
  while (tokens.size() < static_cast<size_t>(spec.vocab)) {
    tokens.push_back(fmt::format("<unused{}>", tokens.size()));
    types.push_back(kUnused);
  }
  writer.AddString("tokenizer.ggml.model", "gpt2");
  writer.AddString("tokenizer.ggml.pre", "smollm");
  writer.AddStrings("tokenizer.ggml.tokens", tokens);
  writer.AddInts("tokenizer.ggml.token_type", types);
  writer.AddStrings("tokenizer.ggml.merges", std::vector<std::string>{});
  writer.AddU32("tokenizer.ggml.bos_token_id", end_of_text);
  writer.AddU32("tokenizer.ggml.eos_token_id", end_of_turn);
  writer.AddBool("tokenizer.ggml.add_bos_token", false);
  writer.AddString("tokenizer.chat_template",
                   "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
                   "message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if "
                   "add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}");
}

}  // namespace

void AddMetadata(const TinyModelSpec& spec, GgufWriter& writer) {
  const std::string arch(core::FamilyName(spec.family));
  const auto number = [&](const char* key, int value) {
    writer.AddU32(arch + "." + key, static_cast<uint32_t>(value));
  };
  writer.AddString("general.architecture", arch);
  writer.AddString("general.name", fmt::format("tiny random {}", arch));
  number("block_count", spec.layers);
  number("context_length", spec.context);
  number("embedding_length", spec.dim);
  number("feed_forward_length", spec.ffn_dim);
  number("attention.head_count", spec.heads);
  number("attention.head_count_kv", spec.kv_heads);
  number("attention.key_length", spec.head_dim);
  number("attention.value_length", spec.head_dim);
  const bool rms = core::TraitsOf(spec.family).norm == core::NormKind::kRms;
  writer.AddFloat(
      arch + (rms ? ".attention.layer_norm_rms_epsilon" : ".attention.layer_norm_epsilon"),
      spec.epsilon);
  if (spec.norm.has_value()) {
    constexpr const char* kNames[] = {"rms", "layer", "batch"};
    writer.AddString(arch + ".norm_type", kNames[static_cast<int>(*spec.norm)]);
  }
  if (spec.family == Family::kGemma3) {
    number("attention.sliding_window", spec.window);
    writer.AddFloat(arch + ".rope.freq_base", 1e6F);
  }
  if (spec.tokenizer) AddTokenizer(spec, writer);
  if (spec.metadata) spec.metadata(writer);
}

namespace {

DType MatrixDType(DType wanted, int64_t columns) {
  for (const DType dtype : {wanted, DType::kQ8_0}) {
    if (columns % core::BlockElements(dtype) == 0) return dtype;
  }
  return DType::kF16;
}

/// Norm weights and variances around 1, biases and means around 0.
std::vector<std::byte> VectorOf(const TinyModelSpec& spec, std::string_view name, int64_t n,
                                uint64_t seed) {
  SplitMix random(seed);
  std::vector<float> values(static_cast<size_t>(n));
  const bool bias = name.ends_with(".bias") || name.ends_with(".running_mean");
  for (float& value : values) value = random.Unit() - 0.5F + (bias ? 0.0F : 1.0F);
  if (spec.vectors) {
    std::vector<float> given = spec.vectors(name);
    if (!given.empty()) values = std::move(given);
  }
  const auto bytes = std::as_bytes(std::span(values));
  return {bytes.begin(), bytes.end()};
}

}  // namespace

std::vector<std::byte> TinyModel(const TinyModelSpec& spec) {
  GgufWriter writer;
  AddMetadata(spec, writer);
  SplitMix seeds(spec.seed);
  for (const core::TensorShape& shape : core::ExpectedTensors(ConfigOf(spec))) {
    const uint64_t seed = seeds.Next();
    if (shape.rows == 0) {
      const int64_t dims[] = {shape.columns};
      writer.AddTensor(shape.name, DType::kF32, dims,
                       VectorOf(spec, shape.name, shape.columns, seed));
      continue;
    }
    const bool table = shape.name == "token_embd.weight" || shape.name == "output.weight";
    const DType dtype = MatrixDType(table ? spec.embedding_dtype : spec.dtype, shape.columns);
    const int64_t dims[] = {shape.columns, shape.rows};
    const float range = 1.0F / std::sqrt(static_cast<float>(shape.columns));
    writer.AddTensor(shape.name, dtype, dims,
                     RandomBlocks(dtype, shape.rows * shape.columns, range, seed));
  }
  return writer.Finish();
}

std::vector<TinyModelShape> TinyModelShapes() {
  return {
      {"MultiHead", {.heads = 8, .kv_heads = 8, .dtype = DType::kQ8_0}},
      {"Grouped9Over3",
       {.dim = 96,
        .ffn_dim = 224,
        .heads = 9,
        .kv_heads = 3,
        .dtype = DType::kQ4_1,
        .embedding_dtype = DType::kQ8_0}},
      {"OneKvHead", {.ffn_dim = 320, .heads = 7, .kv_heads = 1, .dtype = DType::kQ4_0}},
      {"KQuants",
       {.dim = 256,
        .ffn_dim = 512,
        .heads = 8,
        .kv_heads = 2,
        .dtype = DType::kQ4_K,
        .embedding_dtype = DType::kQ6_K}},
      {"Gemma",
       {.family = Family::kGemma3, .layers = 7, .heads = 8, .kv_heads = 2, .dtype = DType::kQ5_0}},
      {"Qwen2Bias", {.family = Family::kQwen2, .heads = 8, .kv_heads = 4, .tied_head = false}},
      {"Qwen3HeadOf80",
       {.family = Family::kQwen3,
        .heads = 14,
        .kv_heads = 2,
        .head_dim = 80,
        .dtype = DType::kF16}},
      {"OutputBiases", {.dtype = DType::kBF16, .output_biases = true}},
      {"Gpt2", {.family = Family::kGpt2, .kv_heads = 4, .dtype = DType::kQ8_0}},
      {"GptNeoX", {.family = Family::kGptNeoX, .heads = 6, .kv_heads = 6, .dtype = DType::kQ5_1}},
      {"FalconTwoNorms",
       {.family = Family::kFalcon,
        .heads = 8,
        .kv_heads = 2,
        .dtype = DType::kQ4_0,
        .parts = {"attn_norm_2.weight", "attn_norm_2.bias"}}},
      {"StableLm", {.family = Family::kStableLm, .dtype = DType::kQ4_1, .tied_head = false}},
      {"Phi2", {.family = Family::kPhi2, .heads = 5, .kv_heads = 5, .dtype = DType::kF16}},
      {"Bloom", {.family = Family::kBloom, .heads = 7, .kv_heads = 7, .dtype = DType::kQ6_K}},
      {"BatchNorm", {.dtype = DType::kQ8_0, .norm = core::NormKind::kBatch}},
  };
}

std::vector<TinyModelShape> AttentionShapes() {
  std::vector<TinyModelShape> shapes;
  for (const TinyModelShape& shape : TinyModelShapes()) {
    const std::string_view name = shape.name;
    const bool differs = name == "Grouped9Over3" || name == "OneKvHead" || name == "Gemma" ||
                         name == "Gpt2" || name == "Bloom";
    if (differs) shapes.push_back(shape);
  }
  return shapes;
}

TempFile WriteTinyModel(const TinyModelSpec& spec) { return TempFile(TinyModel(spec)); }

}  // namespace tandem::testing
