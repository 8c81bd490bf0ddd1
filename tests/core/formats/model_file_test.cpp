#include "core/formats/model_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "fmt/format.h"
#include "tests/support/models.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_model.h"

namespace tandem::core {
namespace {

using ::testing::Each;
using testing::GgufWriter;
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
  EXPECT_TRUE(absl::IsInvalidArgument(ModelFile::Open("/tmp").status()));
  EXPECT_THAT(Message(ModelFile::Open("model.safetensors").status()),
              HasSubstr("convert the model to GGUF"));
}

/// A tiny model in files of a folder, every tensor in part i % parts.
class SplitModel {
 public:
  /// `missing`: tensors that the parts tell of and do not have.
  explicit SplitModel(uint32_t parts, size_t missing = 0) : whole_(TinyModel({})), count_(parts) {
    const auto file = GgufFile::OpenBuffer(whole_, "whole");
    writers_.resize(parts);
    const auto tensors = (*file)->tensors();
    for (uint32_t part = 0; part < parts; ++part) {
      writers_[part].AddU32("split.no", part);
      writers_[part].AddU32("split.count", parts);
      writers_[part].AddU32("split.tensors.count", static_cast<uint32_t>(tensors.size() + missing));
    }
    for (const GgufEntry& entry : (*file)->entries()) {
      // An array's header stands before its elements.
      if (entry.type == GgufType::kArray) continue;
      writers_[0].AddEntry(entry.key, static_cast<uint32_t>(entry.type), entry.value);
    }
    for (size_t i = 0; i < tensors.size(); ++i) {
      const auto dims = std::span(tensors[i].dims).first(tensors[i].rank);
      writers_[i % parts].AddTensor(tensors[i].name, tensors[i].dtype, dims, tensors[i].data);
    }
  }

  std::string Path(uint32_t part) const {
    return folder_.path() + fmt::format("/m-{:05}-of-{:05}.gguf", part + 1, count_);
  }
  void Write(uint32_t part, const std::string& path) const {
    const std::vector<std::byte> bytes = writers_[part].Finish();
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  }
  void WriteAll() const {
    for (uint32_t part = 0; part < count_; ++part) Write(part, Path(part));
  }
  std::span<const std::byte> whole() const { return whole_; }

 private:
  testing::TemporaryDirectory folder_;
  std::vector<std::byte> whole_;
  std::vector<GgufWriter> writers_;
  uint32_t count_;
};

TEST(SplitModelFile, HasTheTensorsOfAllParts) {
  const SplitModel split(3);
  split.WriteAll();
  const auto file = ModelFile::Open(split.Path(0));
  ASSERT_TRUE(file.ok()) << file.status();
  const auto whole = ModelFile::OpenBuffer(split.whole(), "whole");
  int64_t bytes = 0;
  for (uint32_t part = 0; part < 3; ++part) {
    bytes += static_cast<int64_t>(std::filesystem::file_size(split.Path(part)));
  }
  EXPECT_EQ((*file)->gguf().bytes(), bytes);
  ASSERT_EQ((*file)->gguf().tensors().size(), (*whole)->gguf().tensors().size());
  for (const GgufTensor& tensor : (*whole)->gguf().tensors()) {
    const GgufTensor* found = (*file)->gguf().FindTensor(tensor.name);
    ASSERT_NE(found, nullptr) << tensor.name;
    ASSERT_EQ(found->data.size(), tensor.data.size());
    EXPECT_EQ(std::memcmp(found->data.data(), tensor.data.data(), tensor.data.size()), 0);
    // Its pages can be given back.
    ASSERT_NE(found->mapping, nullptr);
    EXPECT_GE(found->data.data(), found->mapping->bytes().data());
    EXPECT_LE(found->data.data() + found->data.size(),
              found->mapping->bytes().data() + found->mapping->bytes().size());
  }
}

TEST(SplitModelFile, CountsTheTensorsOfOnePartToo) {
  for (const uint32_t parts : {1U, 2U}) {
    const SplitModel split(parts, 1);
    split.WriteAll();
    EXPECT_THAT(std::string(Message(ModelFile::Open(split.Path(0)).status())),
                HasSubstr("key 'split.tensors.count' is"));
  }
  const SplitModel one(1);
  one.WriteAll();
  EXPECT_TRUE(ModelFile::Open(one.Path(0)).ok());
}

TEST(SplitModelFile, SaysWhichPartIsMissingOrWrong) {
  const SplitModel split(3);
  split.WriteAll();
  const auto error = [](const std::string& path) {
    return std::string(Message(ModelFile::Open(path).status()));
  };
  EXPECT_EQ(error(split.Path(1)),
            split.Path(1) + ": this is part 2 of 3; give the first part, " + split.Path(0));
  std::filesystem::remove(split.Path(2));
  EXPECT_THAT(error(split.Path(0)), HasSubstr(split.Path(2)));
  EXPECT_THAT(error(split.Path(0)), HasSubstr("(part 3 of 3)"));
  EXPECT_TRUE(absl::IsInvalidArgument(ModelFile::Open(split.Path(0)).status()));
  split.Write(1, split.Path(2));
  EXPECT_THAT(error(split.Path(0)), HasSubstr("it is a part of another model"));
  const std::string renamed = split.Path(0) + ".x.gguf";
  split.Write(0, renamed);
  EXPECT_THAT(error(renamed), HasSubstr("its name does not end with -00001-of-00003.gguf"));
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
