#include "core/base/wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/hex.h"

namespace tandem::core {
namespace {

using tandem::testing::FromHex;
using tandem::testing::Hex;
using ::testing::HasSubstr;

enum class Colour : uint8_t { kRed, kGreen };
struct Nothing {};

}  // namespace

struct WireTestMessage {
  bool flag = false;
  Colour colour = Colour::kRed;
  std::array<uint8_t, 3> bytes{};
  std::optional<int32_t> maybe;
  std::pair<uint8_t, int16_t> pair;
  std::vector<uint16_t> numbers;
  std::string text;
  Nothing nothing;
  std::variant<uint8_t, uint32_t> variant;
  std::vector<std::pair<uint8_t, std::string>> list;
};

template <typename Archive>
void Fields(Archive& archive, WireTestMessage& message) {
  const auto entry = [](auto& each, std::pair<uint8_t, std::string>& pair) {
    each(pair.first, AtMost(pair.second, 3, "letters"));
    each.Require(pair.first != 99, "{} is too much", pair.first);
  };
  archive(message.flag, UpTo(message.colour, Colour::kGreen, "colour"), message.bytes,
          message.maybe, message.pair, AtMost(message.numbers, 3, "numbers"),
          AtMost(message.text, 4, "bytes of text"), message.nothing,
          KindOf(message.variant, "number"), message.variant,
          AtMost(message.list, 2, "entries", entry));
}

namespace {

constexpr std::string_view kHex =
    "01"
    "01"
    "0a0b0c"
    "01feffffff"
    "05f9ff"
    "0200000001000200"
    "020000006869"
    "0107000000"
    "01000000"
    "080100000078";

WireTestMessage Filled() {
  return {.flag = true,
          .colour = Colour::kGreen,
          .bytes = {10, 11, 12},
          .maybe = -2,
          .pair = {5, -7},
          .numbers = {1, 2},
          .text = "hi",
          .nothing = {},
          .variant = uint32_t{7},
          .list = {{8, "x"}}};
}

absl::StatusOr<WireTestMessage> Changed(size_t at, std::string_view hex) {
  std::vector<std::byte> bytes = Encode(Filled());
  for (const std::byte byte : FromHex(hex)) bytes[at++] = byte;
  return Decode<WireTestMessage>("test", bytes);
}

TEST(Wire, FieldsAreWrittenAndReadInTheirOrder) {
  EXPECT_EQ(Hex(Encode(Filled())), kHex);
  const auto read = Decode<WireTestMessage>("test", FromHex(kHex));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(Hex(Encode(*read)), kHex);
  EXPECT_EQ(read->maybe, -2);
  EXPECT_EQ(std::get<uint32_t>(read->variant), 7U);
  EXPECT_EQ(read->list.front().second, "x");
  const auto empty = Decode<WireTestMessage>("test", Encode(WireTestMessage()));
  ASSERT_TRUE(empty.ok()) << empty.status();
  EXPECT_FALSE(empty->maybe.has_value());
}

TEST(Wire, EveryCutIsRefusedAndSoIsWhatIsLeftOver) {
  std::vector<std::byte> bytes = Encode(Filled());
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(Decode<WireTestMessage>("test", std::span(bytes).first(size)).ok()) << size;
  }
  bytes.emplace_back();
  EXPECT_THAT(Message(Decode<WireTestMessage>("test", bytes).status()),
              HasSubstr("test: 1 bytes are left over"));
}

TEST(Wire, EveryLimitIsKept) {
  EXPECT_THAT(Message(Changed(0, "02").status()), HasSubstr("test: a flag is 2, expected 0 or 1"));
  EXPECT_THAT(Message(Changed(1, "02").status()), HasSubstr("test: 2 is no colour"));
  EXPECT_THAT(Message(Changed(5, "ff").status()), HasSubstr("a flag is 255"));
  EXPECT_THAT(Message(Changed(13, "04").status()), HasSubstr("4 numbers, at most 3 are allowed"));
  EXPECT_THAT(Message(Changed(13, "ffffffff").status()), HasSubstr("4294967295 numbers"));
  EXPECT_THAT(Message(Changed(27, "02").status()), HasSubstr("2 is no kind of number"));
  EXPECT_THAT(Message(Changed(32, "03").status()), HasSubstr("3 entries, at most 2 are allowed"));
  // An entry takes five bytes at least.
  EXPECT_THAT(Message(Changed(32, "02").status()), HasSubstr("2 entries cannot stand in the 6"));
  EXPECT_THAT(Message(Changed(37, "04").status()), HasSubstr("4 letters, at most 3 are allowed"));
  EXPECT_THAT(Message(Changed(36, "63").status()), HasSubstr("test: 99 is too much"));
}

TEST(Wire, StatusesComeBack) {
  for (const absl::Status& status : {Unavailable("host a is gone"), absl::OkStatus()}) {
    const std::vector<std::byte> bytes = Encode(status);
    WireReader reader("test", bytes);
    absl::Status read;
    reader(read);
    EXPECT_TRUE(reader.Finish().ok());
    EXPECT_EQ(read, status);
  }
  const std::vector<std::byte> bytes = FromHex("1100000000000000");
  WireReader reader("test", bytes);
  absl::Status read;
  reader(read);
  EXPECT_THAT(Message(reader.Finish()), HasSubstr("17 is no status code"));
}

}  // namespace
}  // namespace tandem::core
