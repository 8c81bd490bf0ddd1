#include "core/formats/config_gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/formats/expected_tensors.h"
#include "core/formats/model_file.h"
#include "core/formats/rope_gguf.h"
#include "tests/support/tiny_model.h"

namespace tandem::core {
namespace {

using ::testing::ElementsAre;
using testing::GgufWriter;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::TinyModel;

/// A model's metadata, to leave out or change a key before it is written.
struct Metadata {
  std::string architecture = "llama";
  std::map<std::string, uint32_t> numbers = {
      {"block_count", 2},          {"context_length", 128},     {"embedding_length", 64},
      {"feed_forward_length", 96}, {"attention.head_count", 4}, {"attention.head_count_kv", 2},
  };
  float epsilon = 1e-5F;
  std::function<void(GgufWriter&)> more;
};

/// A file with these keys and, as its only tensor, an embedding table [50, 64].
std::vector<std::byte> HeaderOnly(const Metadata& metadata) {
  GgufWriter writer;
  writer.AddString("general.architecture", metadata.architecture);
  for (const auto& [key, value] : metadata.numbers) {
    writer.AddU32(metadata.architecture + "." + key, value);
  }
  writer.AddFloat(metadata.architecture + ".attention.layer_norm_rms_epsilon", metadata.epsilon);
  if (metadata.more) metadata.more(writer);
  const int64_t dims[] = {64, 50};
  writer.AddTensor("token_embd.weight", DType::kF32, dims, std::vector<std::byte>(64 * 50 * 4));
  return writer.Finish();
}

absl::StatusOr<ModelConfig> Read(const Metadata& metadata) {
  const std::vector<std::byte> bytes = HeaderOnly(metadata);
  const auto file = GgufFile::OpenBuffer(bytes, "m.gguf");
  if (!file.ok()) return file.status();
  return ReadConfig(**file);
}

std::string ReadError(const Metadata& metadata) {
  const auto config = Read(metadata);
  EXPECT_FALSE(config.ok());
  const std::string message = Message(config.status());
  EXPECT_THAT(message, ::testing::StartsWith("m.gguf: "));
  EXPECT_THAT(message, Not(HasSubstr("\n")));
  return message;
}

std::string ErrorWith(const std::string& key, uint32_t value) {
  Metadata metadata;
  metadata.numbers[key] = value;
  return ReadError(metadata);
}

TEST(ConfigGguf, Llama) {
  const auto config = Read({});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, Family::kLlama);
  EXPECT_EQ(config->layers, 2);
  EXPECT_EQ(config->dim, 64);
  EXPECT_EQ(config->ffn_dim, 96);
  EXPECT_EQ(config->heads, 4);
  EXPECT_EQ(config->kv_heads, 2);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->vocab, 50);
  EXPECT_EQ(config->context, 128);
  EXPECT_EQ(config->norm_epsilon, 1e-5F);
  EXPECT_EQ(config->embedding_scale, 1.0F);
  EXPECT_EQ(config->attention_scale, 0.25F);
  EXPECT_EQ(config->activation, Activation::kSilu);
  EXPECT_TRUE(config->tied_head);
  EXPECT_FALSE(config->Has("attn_q.bias") || config->query_key_norm || config->post_norms);
  EXPECT_THAT(config->layer_window, ElementsAre(0, 0));
  EXPECT_EQ(config->rope.layout, RopeLayout::kAdjacentPairs);
  EXPECT_EQ(config->rope.inverse_frequencies.size(), 8U);
  EXPECT_EQ(config->rope.magnitude, 1.0);
}

TEST(ConfigGguf, QwenFamilies) {
  Metadata metadata;
  metadata.architecture = "qwen2";
  auto config = Read(metadata);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->Has("attn_q.bias"));
  EXPECT_FALSE(config->query_key_norm);
  EXPECT_EQ(config->rope.layout, RopeLayout::kHalves);

  metadata.architecture = "qwen3";
  metadata.numbers["attention.key_length"] = 32;
  metadata.numbers["attention.value_length"] = 32;
  config = Read(metadata);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_FALSE(config->Has("attn_q.bias"));
  EXPECT_TRUE(config->query_key_norm);
  EXPECT_EQ(config->head_dim, 32);
  EXPECT_EQ(config->attention_scale, 1.0F / std::sqrt(32.0F));
}

Metadata Gemma() {
  Metadata metadata;
  metadata.architecture = "gemma3";
  metadata.numbers["block_count"] = 8;
  metadata.numbers["attention.key_length"] = 32;
  metadata.numbers["attention.sliding_window"] = 16;
  metadata.more = [](GgufWriter& writer) {
    writer.AddFloat("gemma3.rope.freq_base", 1e6F);
    writer.AddString("gemma3.rope.scaling.type", "linear");
    writer.AddFloat("gemma3.rope.scaling.factor", 8.0F);
  };
  return metadata;
}

TEST(ConfigGguf, Gemma3) {
  const auto config = Read(Gemma());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->layer_window, ElementsAre(16, 16, 16, 16, 16, 0, 16, 16));
  EXPECT_EQ(config->embedding_scale, 8.0F);
  EXPECT_EQ(config->attention_scale, 1.0F / std::sqrt(32.0F));
  EXPECT_EQ(config->activation, Activation::kGeluTanh);
  EXPECT_TRUE(config->query_key_norm && config->post_norms);
  // The scaling is of the full layers only.
  EXPECT_EQ(config->rope.inverse_frequencies[0], 1.0 / 8);
  EXPECT_EQ(config->local_rope.inverse_frequencies[0], 1.0);
  EXPECT_DOUBLE_EQ(config->rope.inverse_frequencies[8], 1e-3 / 8);
  EXPECT_DOUBLE_EQ(config->local_rope.inverse_frequencies[8], 1e-2);
}

TEST(ConfigGguf, Gemma3Variants) {
  Metadata metadata = Gemma();
  metadata.numbers["block_count"] = 62;  // the 27B model
  EXPECT_EQ(Read(metadata)->attention_scale, 0.25F);

  metadata = Gemma();
  metadata.numbers["attention.sliding_window_pattern"] = 2;
  EXPECT_THAT(Read(metadata)->layer_window, ElementsAre(16, 0, 16, 0, 16, 0, 16, 0));

  metadata = Gemma();
  metadata.numbers["block_count"] = 3;
  metadata.more = [](GgufWriter& writer) {
    const bool pattern[] = {true, false, true};
    writer.AddBools("gemma3.attention.sliding_window_pattern", pattern);
  };
  EXPECT_THAT(Read(metadata)->layer_window, ElementsAre(16, 0, 16));
  metadata.numbers["block_count"] = 4;
  EXPECT_EQ(
      ReadError(metadata),
      "m.gguf: key 'gemma3.attention.sliding_window_pattern' has 3 elements, expected one for "
      "each of 4 layers");
  metadata.numbers.erase("attention.sliding_window");
  EXPECT_THAT(ReadError(metadata), HasSubstr("'gemma3.attention.sliding_window' is missing"));
}

TEST(ConfigGguf, MissingKeysAreNamed) {
  for (const auto& [key, value] : Metadata{}.numbers) {
    if (key == "attention.head_count_kv") continue;
    Metadata metadata;
    metadata.numbers.erase(key);
    EXPECT_THAT(ReadError(metadata), HasSubstr("key 'llama." + key + "' is missing"));
  }
  Metadata metadata;
  metadata.numbers.erase("attention.head_count_kv");
  EXPECT_EQ(Read(metadata)->kv_heads, 4);
  GgufWriter writer;
  const std::vector<std::byte> bytes = writer.Finish();
  EXPECT_EQ(Message(ModelFile::OpenBuffer(bytes, "m.gguf").status()),
            "m.gguf: key 'general.architecture' is missing");
}

TEST(ConfigGguf, NumbersOutOfRange) {
  EXPECT_EQ(ErrorWith("attention.head_count", 513),
            "m.gguf: key 'llama.attention.head_count' is 513, expected a number from 1 to 512");
  EXPECT_THAT(ErrorWith("attention.head_count", 0), HasSubstr("is 0, expected"));
  EXPECT_EQ(ErrorWith("attention.head_count_kv", 3),
            "m.gguf: 4 query heads on 3 KV heads, expected a multiple (keys "
            "'llama.attention.head_count' and 'llama.attention.head_count_kv')");
  EXPECT_THAT(ErrorWith("attention.head_count_kv", 8), HasSubstr("4 query heads on 8 KV heads"));
  EXPECT_THAT(ErrorWith("block_count", 4'000'000'000), HasSubstr("from 1 to 1024"));
  EXPECT_THAT(ErrorWith("context_length", 1 << 30), HasSubstr("from 1 to 67108864"));
  EXPECT_THAT(ErrorWith("attention.key_length", 33), HasSubstr("head dimension is 33"));
  EXPECT_THAT(ErrorWith("attention.value_length", 8), HasSubstr("'llama.attention.value_length'"));
  EXPECT_THAT(ErrorWith("rope.dimension_count", 17), HasSubstr("an even number from 2 to"));
  EXPECT_THAT(ErrorWith("rope.dimension_count", 18), HasSubstr("to the head dimension 16"));
  EXPECT_THAT(ErrorWith("expert_count", 8), HasSubstr("mixtures of experts are not supported"));
  EXPECT_THAT(ErrorWith("embedding_length", 56), HasSubstr("token_embd.weight"));
  Metadata metadata;
  metadata.numbers["attention.head_count"] = 5;
  metadata.numbers["attention.head_count_kv"] = 1;
  EXPECT_THAT(ReadError(metadata), HasSubstr("embedding length 64 is no multiple of 5"));
  for (const float epsilon : {0.0F, -1.0F, 1.0F, std::nanf("")}) {
    metadata = {};
    metadata.epsilon = epsilon;
    EXPECT_THAT(ReadError(metadata), HasSubstr("layer_norm_rms_epsilon"));
  }
}

TEST(ConfigGguf, OddFiles) {
  Metadata metadata;
  metadata.architecture = "mamba";
  EXPECT_EQ(ReadError(metadata),
            "m.gguf: architecture \"mamba\" is not supported, expected llama, qwen2, qwen3, "
            "gemma3, gpt2, gptneox, falcon, starcoder2, stablelm, phi2, bloom or mpt");
  metadata = {};
  metadata.numbers.erase("attention.head_count_kv");
  metadata.more = [](GgufWriter& writer) {
    writer.AddInts("llama.attention.head_count_kv", std::vector<int32_t>{2, 2});
  };
  EXPECT_EQ(Read(metadata)->kv_heads, 2);
  metadata.more = [](GgufWriter& writer) {
    writer.AddInts("llama.attention.head_count_kv", std::vector<int32_t>{2, 4});
  };
  EXPECT_THAT(ReadError(metadata), HasSubstr("differs from layer to layer (2 and 4)"));
  metadata = {};
  metadata.more = [](GgufWriter& writer) {
    writer.AddString("llama.rope.scaling.type", "longrope");
  };
  EXPECT_EQ(ReadError(metadata),
            "m.gguf: key 'llama.rope.scaling.type' is \"longrope\", expected none, linear or yarn");
  metadata.more = [](GgufWriter& writer) {
    writer.AddFloat("llama.attn_logit_softcapping", 0.0F);  // 0 is none
    writer.AddFloat("llama.final_logit_softcapping", 30.0F);
  };
  EXPECT_EQ(ReadError(metadata),
            "m.gguf: key 'llama.final_logit_softcapping' is 30: this is not supported for llama "
            "models; computing without it could give wrong answers");
  metadata.more = [](GgufWriter& writer) { writer.AddBool("llama.attention.causal", false); };
  EXPECT_THAT(ReadError(metadata), HasSubstr("only models that generate text"));
  metadata.more = [](GgufWriter& writer) { writer.AddFloat("llama.rope.freq_base", 0.0F); };
  EXPECT_THAT(ReadError(metadata), HasSubstr("key 'llama.rope.freq_base' is 0, expected"));
}

/// A key of the family, or a whole one, with a value that asks for other arithmetic.
struct ForeignKey {
  const char* key;
  std::function<void(GgufWriter&, const std::string&)> add;
};

std::function<void(GgufWriter&, const std::string&)> Number(uint32_t value) {
  return [=](GgufWriter& writer, const std::string& key) { writer.AddU32(key, value); };
}
std::function<void(GgufWriter&, const std::string&)> Real(float value) {
  return [=](GgufWriter& writer, const std::string& key) { writer.AddFloat(key, value); };
}
std::function<void(GgufWriter&, const std::string&)> Word(const char* value) {
  return [=](GgufWriter& writer, const std::string& key) { writer.AddString(key, value); };
}
std::function<void(GgufWriter&, const std::string&)> Yes() {
  return [](GgufWriter& writer, const std::string& key) { writer.AddBool(key, true); };
}

TEST(ConfigGguf, KeysThatChangeTheArithmeticAreRefusedByName) {
  const std::vector<ForeignKey> foreign = {
      {"llama.pooling_type", Number(1)},
      {"llama.pooling_type", Number(4)},
      {"llama.expert_count", Number(8)},
      {"llama.expert_weights_scale", Real(2.5F)},
      {"llama.attention.sliding_window", Number(100)},
      {"llama.attention.sliding_window_pattern", Number(2)},
      {"llama.attention.relative_buckets_count", Number(32)},
      {"llama.attention.kv_lora_rank", Number(512)},
      {"llama.attention.scale", Real(0.5F)},
      {"llama.attention.clamp_kqv", Real(8)},
      {"llama.attention.max_alibi_bias", Real(8)},
      {"llama.attention.temperature_scale", Real(0.1F)},
      {"llama.attention.shared_kv_layers", Number(1)},
      {"llama.attn_logit_softcapping", Real(50)},
      {"llama.final_logit_softcapping", Real(30)},
      {"llama.logit_scale", Real(0.0625F)},
      {"llama.residual_scale", Real(0.22F)},
      {"llama.embedding_scale", Real(12)},
      {"llama.use_parallel_residual", Yes()},
      {"llama.rope.dimension_sections",
       [](GgufWriter& writer, const std::string& key) {
         writer.AddInts(key, std::vector<int32_t>{16, 24, 24, 0});
       }},
      {"llama.rope.freq_base_swa", Real(10000)},
      {"llama.rope.scaling.attn_factor", Real(1.2F)},
      {"llama.rope.scaling.yarn_ext_factor", Real(1)},
      {"llama.rope.scaling.yarn_log_multiplier", Real(0.1F)},
      {"llama.ssm.state_size", Number(16)},
      {"llama.some_new_thing", Word("yes")},
      {"general.type", Word("adapter")},
      {"adapter.type", Word("lora")},
      {"adapter.lora.alpha", Real(16)},
      {"diffusion.shift_logits", Yes()},
      {"llama.tensor_data_layout", Word("transposed")},
      {"llama.attention.scale", Real(0.2501F)},
      {"general.type", Word("mmproj")},
      {"general.quantization_version", Number(1)},
  };
  for (const ForeignKey& one : foreign) {
    SCOPED_TRACE(one.key);
    Metadata metadata;
    metadata.more = [&one](GgufWriter& writer) { one.add(writer, one.key); };
    EXPECT_THAT(ReadError(metadata), HasSubstr(std::string("key '") + one.key + "' is"));
    EXPECT_TRUE(absl::IsUnimplemented(Read(metadata).status()));
  }
}

TEST(ConfigGguf, AVocabularyOfAnotherSizeThanTheTableIsRefused) {
  Metadata metadata;
  metadata.more = [](GgufWriter& writer) { writer.AddU32("llama.vocab_size", 51); };
  EXPECT_THAT(ReadError(metadata), HasSubstr("key 'llama.vocab_size' is 51"));
}

TEST(ConfigGguf, KeysThatChangeNothingAreTaken) {
  const std::vector<ForeignKey> harmless = {
      {"llama.pooling_type", Number(0)},
      {"llama.expert_count", Number(0)},
      {"llama.attention.sliding_window", Number(0)},
      {"llama.attention.sliding_window", Number(128)},  // the context
      {"llama.logit_scale", Real(1)},
      {"llama.attention.scale", Real(0.25F)},        // 1 / sqrt(16)
      {"llama.attention.scale", Real(0.25000003F)},  // that, rounded on the way
      {"llama.tensor_data_layout", Word("reference")},
      {"llama.rope.scaling.attn_factor", Real(1)},
      {"llama.rope.scaling.finetuned", Yes()},
      {"llama.vocab_size", Number(50)},
      {"llama.tensor_data_layout", Word("Meta AI original pth")},
      {"llama.some_new_thing", Number(0)},
      {"llama.some_new_thing", Word("none")},
      {"general.type", Word("model")},
      {"general.quantization_version", Number(2)},
      {"general.some_new_thing", Word("yes")},
      {"quantize.imatrix.file", Word("a.dat")},
  };
  for (const ForeignKey& one : harmless) {
    SCOPED_TRACE(one.key);
    Metadata metadata;
    metadata.more = [&one](GgufWriter& writer) { one.add(writer, one.key); };
    const auto config = Read(metadata);
    EXPECT_TRUE(config.ok()) << config.status();
  }
}

TEST(RopeGguf, AgreesWithTransformers) {
  std::ifstream in(TANDEM_SOURCE_DIR "/tests/golden/rope/rope.json");
  const nlohmann::json cases = nlohmann::json::parse(in);
  ASSERT_EQ(cases.size(), 5U);
  for (const auto& golden : cases) {
    const auto name = golden["name"].get<std::string>();
    GgufWriter writer;
    for (const auto& [key, value] : golden["keys"].items()) {
      const std::string full = "qwen2." + key;
      if (value.is_string()) writer.AddString(full, value.get<std::string>());
      if (value.is_number_float()) writer.AddFloat(full, value.get<float>());
      if (value.is_number_integer()) writer.AddU32(full, value.get<uint32_t>());
    }
    if (golden.contains("rope_freqs")) {
      const auto factors = golden["rope_freqs"].get<std::vector<float>>();
      const int64_t dims[] = {static_cast<int64_t>(factors.size())};
      writer.AddTensor("rope_freqs.weight", DType::kF32, dims, std::as_bytes(std::span(factors)));
    }
    const std::vector<std::byte> bytes = writer.Finish();
    const auto file = GgufFile::OpenBuffer(bytes, "m.gguf");
    ASSERT_TRUE(file.ok()) << file.status();
    const auto rope = ReadRope(**file, "qwen2", RopeLayout::kHalves, golden["head_dim"].get<int>(),
                               golden["context"].get<int>());
    ASSERT_TRUE(rope.ok()) << rope.status();
    const auto expected = golden["inverse_frequencies"].get<std::vector<double>>();
    ASSERT_EQ(rope->inverse_frequencies.size(), expected.size()) << name;
    for (size_t i = 0; i < expected.size(); ++i) {
      // transformers computes in float32: a few roundings of 6e-8.
      EXPECT_NEAR(rope->inverse_frequencies[i], expected[i], 8e-7 * expected[i])
          << name << " " << i;
    }
    EXPECT_NEAR(rope->magnitude, golden["magnitude"].get<double>(), 1e-12) << name;
  }
}

TEST(RopeGguf, BadFactorsAreRefused) {
  for (const float bad : {0.0F, -1.0F, std::nanf(""), 1e30F}) {
    Metadata metadata;
    metadata.more = [&](GgufWriter& writer) {
      const float factors[8] = {1, 1, 1, bad, 1, 1, 1, 1};
      const int64_t dims[] = {8};
      writer.AddTensor("rope_freqs.weight", DType::kF32, dims, std::as_bytes(std::span(factors)));
    };
    EXPECT_THAT(ReadError(metadata), HasSubstr("tensor 'rope_freqs.weight' has"));
  }
}

/// The tensors of a tiny model, written again but for one change.
std::string ChangedTensorError(const std::function<bool(GgufWriter&, const GgufTensor&)>& change) {
  const std::vector<std::byte> bytes = TinyModel({});
  const auto tiny = GgufFile::OpenBuffer(bytes, "tiny");
  GgufWriter writer;
  for (const GgufEntry& entry : (*tiny)->entries()) {
    EXPECT_NE(entry.type, GgufType::kArray);
    writer.AddEntry(entry.key, static_cast<uint32_t>(entry.type), entry.value);
  }
  for (const GgufTensor& tensor : (*tiny)->tensors()) {
    if (change(writer, tensor)) continue;
    writer.AddTensor(tensor.name, tensor.dtype, std::span(tensor.dims).first(tensor.rank),
                     tensor.data);
  }
  const std::vector<std::byte> changed = writer.Finish();
  const auto file = ModelFile::OpenBuffer(changed, "m.gguf");
  EXPECT_FALSE(file.ok());
  return Message(file.status());
}

TEST(CheckTensors, MissingWrongAndUnknownOnes) {
  EXPECT_EQ(ChangedTensorError([](GgufWriter&, const GgufTensor& tensor) {
              return tensor.name == "blk.1.ffn_up.weight";
            }),
            "m.gguf: tensor 'blk.1.ffn_up.weight' [160, 64] is missing");
  EXPECT_EQ(ChangedTensorError([](GgufWriter& writer, const GgufTensor& tensor) {
              if (tensor.name != "blk.0.attn_q.weight") return false;
              const int64_t dims[] = {64, 64};
              writer.AddTensor(tensor.name, DType::kF16, dims, std::vector<std::byte>(64 * 64 * 2));
              return true;
            }),
            "m.gguf: tensor 'blk.0.attn_q.weight': expected shape [128, 64], found [64, 64]");
  EXPECT_EQ(ChangedTensorError([](GgufWriter& writer, const GgufTensor& tensor) {
              if (tensor.name != "output_norm.weight") return false;
              const int64_t dims[] = {64};
              writer.AddTensor(tensor.name, DType::kQ8_0, dims, std::vector<std::byte>(68));
              return true;
            }),
            "m.gguf: tensor 'output_norm.weight': expected F32, F16 or BF16, found Q8_0");
  EXPECT_EQ(ChangedTensorError([](GgufWriter& writer, const GgufTensor& tensor) {
              if (tensor.name != "output_norm.weight") return false;
              const int64_t dims[] = {64};
              writer.AddTensor("blk.0.ffn_up.bias", DType::kF32, dims, std::vector<std::byte>(256));
              return false;
            }),
            "m.gguf: tensor 'blk.0.ffn_up.bias' [64] is not part of the llama models that are "
            "supported; computing without it would give wrong answers");
}

}  // namespace
}  // namespace tandem::core
