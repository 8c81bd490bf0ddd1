#include "core/formats/model_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/models.h"
#include "tests/support/tiny_model.h"

namespace tandem::core {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using testing::ModelPath;
using testing::TempFile;
using testing::TinyModel;
using testing::TinyModelSpec;

TEST(ModelFile, TensorsByNameAndShape) {
  TinyModelSpec spec;
  spec.dtype = DType::kQ4_1;
  const TempFile temporary = testing::WriteTinyModel(spec);
  const auto opened = ModelFile::Open(temporary.path());
  ASSERT_TRUE(opened.ok()) << opened.status();
  const ModelFile& file = **opened;
  EXPECT_EQ(file.path(), temporary.path());
  EXPECT_TRUE(file.Has("output_norm.weight"));
  EXPECT_FALSE(file.Has("output.weight"));
  const auto matrix = file.Matrix("blk.0.attn_q.weight", 128, 64);
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  EXPECT_EQ(matrix->dtype, DType::kQ4_1);
  EXPECT_EQ(matrix->data, file.gguf().FindTensor("blk.0.attn_q.weight")->data.data());
  const auto vector = file.Vector("output_norm.weight", 64);
  ASSERT_TRUE(vector.ok()) << vector.status();
  EXPECT_THAT(*vector, Each(::testing::AllOf(::testing::Ge(0.5F), ::testing::Le(1.5F))));

  EXPECT_EQ(Message(file.Matrix("blk.0.attn_q.weight", 64, 128).status()),
            file.path() +
                ": tensor 'blk.0.attn_q.weight': expected a matrix [64, 128], found Q4_1 "
                "[128, 64]");
  EXPECT_EQ(Message(file.Vector("blk.0.attn_q.weight", 64).status()),
            file.path() +
                ": tensor 'blk.0.attn_q.weight': expected a vector [64] of F32, F16 or "
                "BF16, found Q4_1 [128, 64]");
  EXPECT_EQ(Message(file.Vector("nope", 64).status()),
            file.path() + ": tensor 'nope' is missing, expected a vector [64] of F32, F16 or BF16");
}

TEST(ModelFile, FoldersAndSafetensorsAreNotReadYet) {
  EXPECT_TRUE(absl::IsUnimplemented(ModelFile::Open("/tmp").status()));
  EXPECT_THAT(Message(ModelFile::Open("model.safetensors").status()),
              HasSubstr("convert the model to GGUF"));
}

TEST(ModelFile, FingerprintTellsFilesApart) {
  const std::vector<std::byte> bytes = TinyModel({});
  const uint64_t fingerprint = (*ModelFile::OpenBuffer(bytes, "a"))->fingerprint();
  EXPECT_EQ((*ModelFile::OpenBuffer(bytes, "b"))->fingerprint(), fingerprint);
  TinyModelSpec spec;
  spec.seed = 2;  // the same header, other weights
  const std::vector<std::byte> other = TinyModel(spec);
  EXPECT_NE((*ModelFile::OpenBuffer(other, "a"))->fingerprint(), fingerprint);
  std::vector<std::byte> longer = bytes;
  longer.resize(bytes.size() + 1);
  EXPECT_NE((*ModelFile::OpenBuffer(longer, "a"))->fingerprint(), fingerprint);
}

TEST(ModelFile, RealModels) {
  const auto smollm = ModelFile::Open(ModelPath("SmolLM2-135M-Instruct.Q4_1.gguf"));
  ASSERT_TRUE(smollm.ok()) << smollm.status();
  const ModelConfig& llama = (*smollm)->config();
  EXPECT_EQ(llama.layers, 30);
  EXPECT_EQ(llama.heads, 9);
  EXPECT_EQ(llama.kv_heads, 3);
  EXPECT_EQ(llama.head_dim, 64);
  EXPECT_EQ(llama.vocab, 49152);
  EXPECT_EQ(llama.context, 8192);
  EXPECT_TRUE(llama.tied_head);
  EXPECT_EQ((*smollm)->Matrix("token_embd.weight", 49152, 576)->dtype, DType::kQ8_0);

  const auto gemma_file = ModelFile::Open(ModelPath("gemma-3-270m-q4_k_m.gguf"));
  ASSERT_TRUE(gemma_file.ok()) << gemma_file.status();
  const ModelConfig& gemma = (*gemma_file)->config();
  EXPECT_EQ(gemma.layers, 18);
  EXPECT_EQ(gemma.head_dim, 256);
  EXPECT_EQ(gemma.layer_window[4], 512);
  EXPECT_EQ(gemma.layer_window[5], 0);
  EXPECT_EQ(gemma.embedding_scale, std::sqrt(640.0F));
  EXPECT_EQ(gemma.attention_scale, 1.0F / 16);
  // The file's norms are multiplied as they are: the converter has added the 1 of (1 + weight), so
  // none is negative.
  for (const char* name : {"output_norm.weight", "blk.0.attn_norm.weight"}) {
    EXPECT_THAT(*(*gemma_file)->Vector(name, 640), Each(::testing::Ge(0.0F))) << name;
  }
}

}  // namespace
}  // namespace tandem::core
