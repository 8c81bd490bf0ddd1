#include "core/formats/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>

#include "tests/support/gguf_writer.h"
#include "tests/support/models.h"

namespace tandem::core {
namespace {

using ::testing::ElementsAre;
using testing::GgufWriter;
using ::testing::HasSubstr;
using testing::ModelPath;
using ::testing::Not;
using testing::TempFile;

constexpr int64_t kDims[] = {4, 2};
constexpr std::byte kEightFloats[32] = {};

/// The message of opening these bytes, which must be an error of one line that names the file.
std::string OpenError(const std::vector<std::byte>& bytes) {
  const auto file = GgufFile::OpenBuffer(bytes, "m.gguf");
  EXPECT_FALSE(file.ok());
  if (file.ok()) return "";
  const std::string message = Message(file.status());
  EXPECT_THAT(message, ::testing::StartsWith("m.gguf: "));
  EXPECT_THAT(message, Not(HasSubstr("\n")));
  return message;
}

std::string OpenError(const std::function<void(GgufWriter&)>& write, uint32_t version = 3) {
  GgufWriter writer(version);
  write(writer);
  return OpenError(writer.Finish());
}

std::string PathError(const std::string& path) {
  const auto file = GgufFile::Open(path);
  EXPECT_FALSE(file.ok()) << path;
  return Message(file.status());
}

TEST(Gguf, ReadsWhatIsWritten) {
  for (const uint32_t version : {2U, 3U}) {
    GgufWriter writer(version);
    writer.AddU32("a.number", 7);
    writer.AddFloat("a.float", 0.5F);
    writer.AddBool("a.bool", true);
    writer.AddString("a.string", "hello\nworld");
    writer.AddStrings("a.strings", std::vector<std::string>{"x", "", "zz"});
    writer.AddInts("a.ints", std::vector<int32_t>{-1, 5});
    writer.AddFloats("a.floats", std::vector<float>{1.5F, 2.5F});
    const float values[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    writer.AddTensor("t", DType::kF32, kDims, std::as_bytes(std::span(values)));
    const std::vector<std::byte> bytes = writer.Finish();
    const auto opened = GgufFile::OpenBuffer(bytes, "m.gguf");
    ASSERT_TRUE(opened.ok()) << opened.status();
    const GgufFile& file = **opened;
    EXPECT_EQ(file.version(), version);
    EXPECT_EQ(*file.U32("a.number"), 7U);
    EXPECT_EQ(*file.Integer("a.number"), 7);
    EXPECT_EQ(*file.Float("a.float"), 0.5F);
    EXPECT_TRUE(*file.Bool("a.bool"));
    EXPECT_EQ(*file.String("a.string"), "hello\nworld");
    EXPECT_THAT(*file.Strings("a.strings"), ElementsAre("x", "", "zz"));
    EXPECT_THAT(*file.Integers("a.ints"), ElementsAre(-1, 5));
    EXPECT_THAT(*file.Floats("a.floats"), ElementsAre(1.5F, 2.5F));
    EXPECT_EQ(*file.U32Or("missing", 9), 9U);
    EXPECT_EQ(*file.StringOr("missing", "s"), "s");
    EXPECT_TRUE(absl::IsNotFound(file.U32("missing").status()));

    EXPECT_EQ(file.ValueText(*file.Find("a.string")), "\"hello\\nworld\"");
    EXPECT_EQ(file.ValueText(*file.Find("a.strings")), "[3 x string]");
    EXPECT_EQ(file.ValueText(*file.Find("a.ints")), "[-1, 5]");
    EXPECT_EQ(file.ValueText(*file.Find("a.bool")), "true");

    ASSERT_EQ(file.tensors().size(), 1U);
    const GgufTensor* tensor = file.FindTensor("t");
    ASSERT_NE(tensor, nullptr);
    EXPECT_EQ(tensor->ShapeText(), "[2, 4]");
    ASSERT_EQ(tensor->data.size(), sizeof(values));
    EXPECT_EQ(std::memcmp(tensor->data.data(), values, sizeof(values)), 0);
    EXPECT_EQ(file.FindTensor("u"), nullptr);
  }
}

TEST(Gguf, WrongTypesNameKeyExpectedAndFound) {
  GgufWriter writer;
  writer.AddString("s", "text");
  writer.AddInts("i", std::vector<int32_t>{-3});
  const uint64_t huge = ~uint64_t{0};
  writer.AddEntry("huge", static_cast<uint32_t>(GgufType::kUint64),
                  std::as_bytes(std::span(&huge, 1)));
  const uint8_t two = 2;
  writer.AddEntry("two", static_cast<uint32_t>(GgufType::kBool), std::as_bytes(std::span(&two, 1)));
  const std::vector<std::byte> bytes = writer.Finish();
  const auto opened = GgufFile::OpenBuffer(bytes, "m.gguf");
  ASSERT_TRUE(opened.ok()) << opened.status();
  const GgufFile& file = **opened;
  EXPECT_EQ(Message(file.U32Or("s", 1).status()),
            "m.gguf: key 's': expected an integer from 0 to 4294967295, found string \"text\"");
  EXPECT_EQ(Message(file.Strings("i").status()),
            "m.gguf: key 'i': expected an array of strings, found array of 1 int32 [-3]");
  EXPECT_EQ(Message(file.Integer("huge").status()),
            "m.gguf: key 'huge': expected an integer, found uint64 18446744073709551615");
  EXPECT_EQ(Message(file.Bool("two").status()),
            "m.gguf: key 'two': expected a bool (0 or 1), found bool true");
  EXPECT_EQ(Message(file.Strings("s").status()),
            "m.gguf: key 's': expected an array, found string \"text\"");
  EXPECT_EQ(Message(file.Float("nope").status()), "m.gguf: key 'nope' is missing");
}

TEST(Gguf, PathsThatAreNoModel) {
  const std::string folder = std::filesystem::temp_directory_path().string();
  EXPECT_THAT(PathError("/nowhere/m.gguf"), HasSubstr("/nowhere/m.gguf: no such file"));
  EXPECT_EQ(PathError(folder), folder + ": is a directory, expected a file");
  EXPECT_THAT(PathError("/dev/null"), HasSubstr("is not a regular file"));
  const TempFile empty(std::span<const std::byte>{});
  EXPECT_EQ(PathError(empty.path()), empty.path() + ": is empty (0 bytes)");
  const std::string text = "#!/bin/sh\nexit 0\n";
  const TempFile script(std::as_bytes(std::span(text)));
  EXPECT_EQ(PathError(script.path()),
            script.path() +
                ": is not a GGUF model: expected the file to begin with \"GGUF\", found \"#!/b\"");
}

TEST(Gguf, AFifoIsRefusedAndNotWaitedFor) {
  const TempFile place(std::span<const std::byte>{});
  const std::string path = place.path() + ".fifo";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_THAT(PathError(path), HasSubstr("is not a regular file"));
  std::filesystem::remove(path);
}

TEST(Gguf, Versions) {
  EXPECT_THAT(OpenError([](GgufWriter&) {}, 1), HasSubstr("GGUF version 1, expected 2 or 3"));
  EXPECT_THAT(OpenError([](GgufWriter&) {}, 4), HasSubstr("GGUF version 4, expected 2 or 3"));
  EXPECT_THAT(OpenError([](GgufWriter&) {}, 3U << 24), HasSubstr("big-endian"));
}

TEST(Gguf, EveryTruncationIsAnError) {
  GgufWriter writer;
  writer.AddU32("number", 7);
  writer.AddStrings("strings", std::vector<std::string>{"x", "yy"});
  writer.AddTensor("t", DType::kF32, kDims, kEightFloats);
  const std::vector<std::byte> bytes = writer.Finish();
  ASSERT_TRUE(GgufFile::OpenBuffer(bytes, "m.gguf").ok());
  for (size_t size = 0; size < bytes.size(); ++size) {
    OpenError(std::vector<std::byte>(bytes.begin(), bytes.begin() + static_cast<int64_t>(size)));
  }
  EXPECT_EQ(
      OpenError(std::vector<std::byte>(bytes.begin(), bytes.begin() + 26)),
      "m.gguf: truncated: the name of metadata entry 0 at byte 24 needs 8 bytes, but the file "
      "ends after 2 more (26 bytes in all)");
  EXPECT_EQ(OpenError(std::vector<std::byte>(bytes.begin(), bytes.end() - 4)),
            "m.gguf: tensor 't' needs 32 bytes at offset 0 of the tensor data, but the file holds "
            "only 28 bytes of it; the file is truncated or damaged: fetch it again");
}

TEST(Gguf, AbsurdCountsAreRefusedBeforeAnythingIsAllocated) {
  GgufWriter writer;
  std::vector<std::byte> bytes = writer.Finish();
  const uint64_t huge = ~uint64_t{0};
  std::memcpy(bytes.data() + 8, &huge, sizeof(huge));
  EXPECT_EQ(OpenError(bytes),
            "m.gguf: the header claims 18446744073709551615 tensors, expected at most 131072");
  bytes = writer.Finish();
  std::memcpy(bytes.data() + 16, &huge, sizeof(huge));
  EXPECT_THAT(OpenError(bytes), HasSubstr("metadata entries, expected at most 65536"));
}

TEST(Gguf, Metadata) {
  EXPECT_EQ(OpenError([](GgufWriter& writer) {
              writer.AddU32("k", 1);
              writer.AddBool("k", true);
            }),
            "m.gguf: key 'k' occurs twice, expected once");
  EXPECT_THAT(OpenError([](GgufWriter& writer) { writer.AddU32("", 1); }),
              HasSubstr("metadata entry 0 has an empty name"));
  EXPECT_EQ(OpenError([](GgufWriter& writer) { writer.AddEntry("k", 13, {}); }),
            "m.gguf: key 'k' has value type 13, expected 0 to 12");
  const uint64_t long_string[] = {uint64_t{1} << 40};
  EXPECT_THAT(
      OpenError([&](GgufWriter& writer) {
        writer.AddEntry("k\x01\n", 8, std::as_bytes(std::span(long_string)));
      }),
      HasSubstr("key 'k\\x01\\n' at byte 39 is 1099511627776 bytes long, expected at most"));
}

/// An array value: element type, count, and more bytes.
std::vector<std::byte> ArrayValue(uint32_t type, uint64_t count,
                                  const std::vector<std::byte>& more = {}) {
  std::vector<std::byte> value(12 + more.size());
  std::memcpy(value.data(), &type, 4);
  std::memcpy(value.data() + 4, &count, 8);
  if (!more.empty()) std::memcpy(value.data() + 12, more.data(), more.size());
  return value;
}

TEST(Gguf, Arrays) {
  const auto array_error = [](const std::vector<std::byte>& value) {
    return OpenError([&](GgufWriter& writer) { writer.AddEntry("k", 9, value); });
  };
  EXPECT_THAT(array_error(ArrayValue(4, ~uint64_t{0})), HasSubstr("expected at most 67108864"));
  EXPECT_THAT(array_error(ArrayValue(12, 1 << 26)), HasSubstr("needs 536870912 bytes"));
  EXPECT_THAT(array_error(ArrayValue(8, 1 << 26)), HasSubstr("truncated: key 'k'"));
  EXPECT_THAT(array_error(ArrayValue(99, 1)), HasSubstr("has value type 99"));
  std::vector<std::byte> nested = ArrayValue(0, 0);
  for (int depth = 0; depth < 3; ++depth) nested = ArrayValue(9, 1, nested);
  GgufWriter writer;
  writer.AddEntry("k", 9, nested);
  const std::vector<std::byte> bytes = writer.Finish();
  const auto file = GgufFile::OpenBuffer(bytes, "m.gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->ValueText((*file)->entries()[0]), "[1 x array]");
  EXPECT_THAT(array_error(ArrayValue(9, 1, nested)), HasSubstr("nests arrays deeper than 4"));
}

TEST(Gguf, Alignment) {
  for (const uint32_t alignment : {0U, 1U, 24U, 1U << 21}) {
    EXPECT_THAT(
        OpenError([&](GgufWriter& writer) { writer.AddU32("general.alignment", alignment); }),
        HasSubstr(fmt::format("key 'general.alignment' is {}, expected a power of two from 8 to "
                              "1048576",
                              alignment)));
  }
  EXPECT_THAT(OpenError([](GgufWriter& writer) { writer.AddString("general.alignment", "x"); }),
              HasSubstr("key 'general.alignment': expected an integer"));
}

std::string TensorError(uint32_t type, const std::vector<uint64_t>& dims, uint64_t offset = 0) {
  return OpenError([&](GgufWriter& writer) {
    writer.AddTensor("first", DType::kF32, kDims, kEightFloats);
    writer.AddTensor("second", DType::kF32, kDims, kEightFloats);
    writer.AddTensorRaw("bad", type, dims, offset);
  });
}

TEST(Gguf, Tensors) {
  EXPECT_EQ(TensorError(17, {256, 1}),
            "m.gguf: tensor 'bad' has type IQ2_XS (17), expected F32, F16, BF16, Q4_0, Q4_1, Q5_0, "
            "Q5_1, Q8_0 or Q2_K to Q6_K; take a file quantized to one of these");
  EXPECT_THAT(TensorError(1000, {32}), HasSubstr("has type unknown (1000)"));
  EXPECT_EQ(TensorError(0, {}), "m.gguf: tensor 'bad' has 0 dimensions, expected 1 to 4");
  EXPECT_EQ(TensorError(0, {1, 1, 1, 1, 1}),
            "m.gguf: tensor 'bad' has 5 dimensions, expected 1 to 4");
  EXPECT_THAT(TensorError(0, {4, 0}), HasSubstr("has 0 elements in dimension 1"));
  EXPECT_THAT(TensorError(0, {uint64_t{1} << 33, uint64_t{1} << 33}), HasSubstr("in dimension 1"));
  EXPECT_THAT(TensorError(0, {uint64_t{1} << 62}), HasSubstr("in dimension 0"));
  EXPECT_EQ(TensorError(2, {40, 2}),
            "m.gguf: tensor 'bad' has rows of 40 elements, expected a multiple of 32 for Q4_0");
  EXPECT_EQ(TensorError(0, {4}, 33),
            "m.gguf: tensor 'bad' lies at offset 33, expected a multiple of 32");
  EXPECT_THAT(TensorError(0, {4}, 96), HasSubstr("'bad' needs 16 bytes at offset 96"));
  EXPECT_THAT(TensorError(0, {4}, ~uint64_t{31}),
              HasSubstr("'bad' needs 16 bytes at offset 18446744073709551584"));
  EXPECT_THAT(TensorError(0, {uint64_t{1} << 40}), HasSubstr("needs 4398046511104 bytes"));
  EXPECT_THAT(TensorError(0, {4}, 32), HasSubstr("tensors 'second' and 'bad' overlap"));
  EXPECT_THAT(TensorError(0, {16}, 0), HasSubstr("overlap"));
  EXPECT_EQ(OpenError([](GgufWriter& writer) {
              writer.AddTensor("t", DType::kF32, kDims, kEightFloats);
              writer.AddTensor("t", DType::kF32, kDims, kEightFloats);
            }),
            "m.gguf: tensor 't' occurs twice, expected once");
}

TEST(Gguf, PrintableTextIsOneLineAndCutBetweenCharacters) {
  EXPECT_EQ(PrintableText("a\tb\n\x7f"), "a\\x09b\\n\\x7f");
  EXPECT_EQ(PrintableText("h\xc3\xa9llo", 2), "h...");
  EXPECT_EQ(PrintableText("h\xc3\xa9llo", 3), "h\xc3\xa9...");
  EXPECT_EQ(PrintableText("abc", 3), "abc");
}

TEST(Gguf, RealModels) {
  const auto smollm = GgufFile::Open(ModelPath("SmolLM2-135M-Instruct.Q4_1.gguf"));
  ASSERT_TRUE(smollm.ok()) << smollm.status();
  EXPECT_EQ((*smollm)->tensors().size(), 272U);
  EXPECT_EQ(*(*smollm)->String("tokenizer.ggml.pre"), "smollm");
  EXPECT_EQ((*smollm)->Strings("tokenizer.ggml.merges")->size(), 48900U);
  const auto gemma = GgufFile::Open(ModelPath("gemma-3-270m-q4_k_m.gguf"));
  ASSERT_TRUE(gemma.ok()) << gemma.status();
  EXPECT_EQ((*gemma)->tensors().size(), 236U);
  EXPECT_EQ((*gemma)->Strings("tokenizer.ggml.tokens")->size(), 262144U);
  EXPECT_EQ((*gemma)->Floats("tokenizer.ggml.scores")->size(), 262144U);
  EXPECT_EQ((*gemma)->FindTensor("blk.0.ffn_down.weight")->dtype, DType::kQ6_K);
}

}  // namespace
}  // namespace tandem::core
