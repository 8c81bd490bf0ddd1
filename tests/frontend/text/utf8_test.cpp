#include "frontend/text/utf8.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace tandem::frontend {
namespace {

// Expected values are those of Python: bytes.decode("utf-8", errors="replace").
TEST(Utf8, ReplacesTheLongestInvalidPrefixOfACharacter) {
  EXPECT_EQ(ReplaceInvalidUtf8("plain \xC3\xA9 \xF0\x9F\x98\x80"),
            "plain \xC3\xA9 \xF0\x9F\x98\x80");
  EXPECT_EQ(ReplaceInvalidUtf8("a\xFF\xFE z"), "a\uFFFD\uFFFD z");
  EXPECT_EQ(ReplaceInvalidUtf8("\xE2\x82"), "\uFFFD");                  // cut
  EXPECT_EQ(ReplaceInvalidUtf8("\xE2\x82 "), "\uFFFD ");                // cut by a space
  EXPECT_EQ(ReplaceInvalidUtf8("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");  // surrogate
  EXPECT_EQ(ReplaceInvalidUtf8("\xC0\xAF"), "\uFFFD\uFFFD");            // overlong
  EXPECT_EQ(ReplaceInvalidUtf8("\xF4\x90\x80\x80"), "\uFFFD\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(ReplaceInvalidUtf8("\xF0\x9F\x98x\x80"), "\uFFFDx\uFFFD");
  EXPECT_EQ(ReplaceInvalidUtf8(""), "");
}

TEST(Utf8, StreamHoldsBackIncompleteCharactersOnly) {
  Utf8Stream stream;
  EXPECT_EQ(stream.Append("a\xF0"), "a");
  EXPECT_EQ(stream.Append("\x9F\x98"), "");
  EXPECT_EQ(stream.Append("\x80!"), "\xF0\x9F\x98\x80!");
  EXPECT_EQ(stream.Append("\xE2\x82"), "");
  EXPECT_EQ(stream.Append("b"),
            "\uFFFD"
            "b");
  EXPECT_EQ(stream.Append("\xE2\x82"), "");
  EXPECT_EQ(stream.Finish(), "\uFFFD");
  EXPECT_EQ(stream.Finish(), "");
}

TEST(Utf8, StreamInAnyPiecesEqualsTheWhole) {
  std::mt19937 random(7);
  const std::string alphabet = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\xED\xA0\xFF\xC0";
  for (int round = 0; round < 2000; ++round) {
    std::string bytes;
    for (size_t n = random() % 20; n > 0; --n) bytes += alphabet[random() % alphabet.size()];
    Utf8Stream stream;
    std::string text;
    for (const char byte : bytes) {
      text += stream.Append(std::string(1, byte));
      EXPECT_EQ(ValidUtf8Prefix(text), text.size());
    }
    text += stream.Finish();
    EXPECT_EQ(text, ReplaceInvalidUtf8(bytes));
  }
}

}  // namespace
}  // namespace tandem::frontend
