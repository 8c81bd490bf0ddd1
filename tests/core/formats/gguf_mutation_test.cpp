#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "core/formats/config_gguf.h"
#include "core/formats/expected_tensors.h"
#include "tests/support/random.h"
#include "tests/support/tiny_model.h"

namespace tandem::core {
namespace {

using testing::SplitMix;

/// Numbers that break careless arithmetic.
uint64_t NastyNumber(SplitMix& random) {
  switch (random.Below(4)) {
    case 0:
      return random.Below(64);
    case 1:
      return ~uint64_t{0} - random.Below(64);
    case 2:
      return uint64_t{1} << random.Below(64);
    default:
      return random.Next();
  }
}

/// Changes a few places of the first `header` bytes: a byte, a 4- or 8-byte number, a copied run.
void Mutate(std::vector<std::byte>& bytes, size_t header, SplitMix& random) {
  const uint64_t changes = 1 + random.Below(4);
  for (uint64_t i = 0; i < changes; ++i) {
    const size_t at = random.Below(header);
    const size_t room = header - at;
    const uint64_t number = NastyNumber(random);
    switch (random.Below(4)) {
      case 0:
        bytes[at] = static_cast<std::byte>(number);
        break;
      case 1:
        std::memcpy(bytes.data() + at, &number, std::min<size_t>(room, 4));
        break;
      case 2:
        std::memcpy(bytes.data() + at, &number, std::min<size_t>(room, 8));
        break;
      default:
        std::memmove(bytes.data() + at, bytes.data() + random.Below(header - room + 1),
                     std::min<size_t>(room, random.Below(64)));
        break;
    }
  }
}

/// Looks at everything a user of the file would, so that a sanitizer sees what is out of bounds.
uint64_t Touch(const GgufFile& file) {
  uint64_t seen = 0;
  for (const GgufEntry& entry : file.entries()) {
    seen += file.ValueText(entry).size();
    (void)file.Strings(entry.key);
    (void)file.Integers(entry.key);
    (void)file.Floats(entry.key);
  }
  for (const GgufTensor& tensor : file.tensors()) {
    seen += std::to_integer<uint64_t>(tensor.data.front());
    seen += std::to_integer<uint64_t>(tensor.data.back());
  }
  return seen;
}

TEST(GgufMutation, DamagedFilesAreRefusedOrReadAndNeverCrash) {
  testing::TinyModelSpec spec;
  spec.family = Family::kGemma3;
  spec.layers = 1;
  spec.dim = 32;
  spec.ffn_dim = 32;
  spec.heads = 2;
  spec.kv_heads = 1;
  spec.head_dim = 16;
  spec.vocab = 260;
  spec.tokenizer = true;
  spec.dtype = DType::kQ4_0;
  spec.embedding_dtype = DType::kQ8_0;
  const std::vector<std::byte> good = testing::TinyModel(spec);
  const size_t header = (*GgufFile::OpenBuffer(good, "m.gguf"))->header().size();
  constexpr int kFiles = 6000;
  int refused = 0;
  int read = 0;
  uint64_t seen = 0;
  for (int i = 0; i < kFiles; ++i) {
    SplitMix random(static_cast<uint64_t>(i));
    std::vector<std::byte> bytes = good;
    Mutate(bytes, header, random);
    if (random.Below(8) == 0) bytes.resize(random.Below(bytes.size()) + 1);
    bytes.shrink_to_fit();
    const auto file = GgufFile::OpenBuffer(bytes, "m.gguf");
    absl::Status status = file.status();
    if (file.ok()) {
      seen += Touch(**file);
      const auto config = ReadConfig(**file);
      status = config.ok() ? CheckTensors(**file, *config) : config.status();
    }
    if (status.ok()) {
      ++read;
      continue;
    }
    ++refused;
    const std::string message = Message(status);
    ASSERT_EQ(message.rfind("m.gguf: ", 0), 0U) << "seed " << i << ": " << message;
    ASSERT_EQ(message.find('\n'), std::string::npos) << "seed " << i << ": " << message;
    ASSERT_LT(message.size(), 1000U) << "seed " << i << ": " << message;
  }
  // Both kinds must occur, or the test tests nothing.
  EXPECT_GT(refused, kFiles / 10);
  EXPECT_GT(read, kFiles / 10);
  EXPECT_GT(seen, 0U);
}

}  // namespace
}  // namespace tandem::core
