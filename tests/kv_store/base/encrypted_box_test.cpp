#include "kv_store/base/encrypted_box.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "tests/support/temporary_directory.h"

namespace tandem::kv_store {
namespace {

using ::testing::HasSubstr;

std::vector<std::byte> Bytes(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

StateKey KeyOf(uint8_t fill) {
  StateKey key;
  key.fill(fill);
  return key;
}

TEST(EncryptedBox, OpensWhatItSealedAtTheSamePlaceOnly) {
  const EncryptedBox box(KeyOf(1));
  for (const size_t size : {size_t{0}, size_t{1}, size_t{100}, size_t{70000}}) {
    const std::vector<std::byte> plain(size, std::byte{42});
    const auto encrypted = box.Seal(7, Bytes("here"), plain);
    EXPECT_EQ(encrypted.size(), size + EncryptedBox::kOverhead);
    const auto opened = box.Open(Bytes("here"), encrypted);
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_EQ(*opened, plain);
    EXPECT_TRUE(absl::IsDataLoss(box.Open(Bytes("there"), encrypted).status()));
    EXPECT_TRUE(absl::IsDataLoss(EncryptedBox(KeyOf(2)).Open(Bytes("here"), encrypted).status()));
  }
}

TEST(EncryptedBox, EveryFlippedBitAndEveryCutIsSeen) {
  const EncryptedBox box(KeyOf(1));
  const auto encrypted = box.Seal(7, Bytes("here"), Bytes("text of a user"));
  for (size_t bit = 0; bit < encrypted.size() * 8; ++bit) {
    auto changed = encrypted;
    changed[bit / 8] ^= std::byte{1} << (bit % 8);
    EXPECT_FALSE(box.Open(Bytes("here"), changed).ok()) << bit;
  }
  for (size_t size = 0; size < encrypted.size(); ++size) {
    EXPECT_TRUE(
        absl::IsDataLoss(box.Open(Bytes("here"), std::span(encrypted).first(size)).status()));
  }
  auto newer = encrypted;
  newer[0] = std::byte{2};
  EXPECT_TRUE(absl::IsFailedPrecondition(box.Open(Bytes("here"), newer).status()));
}

TEST(EncryptedBox, HidesTextAndTenantAndNeverRepeatsItself) {
  const EncryptedBox box(KeyOf(1));
  const auto plain = Bytes("a secret that nobody may read");
  const uint64_t tenant = 0x0123456789ABCDEF;
  const auto one = box.Seal(tenant, Bytes("p"), plain);
  const auto two = box.Seal(tenant, Bytes("p"), plain);
  EXPECT_NE(one, two);
  const auto holds = [](const std::vector<std::byte>& text, std::span<const std::byte> part) {
    return std::search(text.begin(), text.end(), part.begin(), part.end()) != text.end();
  };
  EXPECT_FALSE(holds(one, std::span(plain).first(8)));
  EXPECT_FALSE(holds(one, std::as_bytes(std::span(&tenant, 1))));
  EXPECT_NE(box.Derive("a", {}), box.Derive("b", {}));
  EXPECT_NE(box.Derive("a", Bytes("b")), box.Derive("ab", {}));
}

class KeyFile : public ::testing::Test {
 protected:
  absl::StatusOr<StateKey> ReadOf(const std::string& content, mode_t mode = 0600) {
    const std::string path = directory_.path() + "/key";
    std::filesystem::remove(path);
    std::ofstream(path) << content;
    chmod(path.c_str(), mode);
    return ReadStateKey(path);
  }
  const testing::TemporaryDirectory directory_;
};

TEST_F(KeyFile, HoldsBytesOrDigits) {
  const auto bytes = ReadOf(std::string(32, '\x0A'));
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_EQ(*bytes, KeyOf(10));
  std::string digits;
  for (int i = 0; i < 32; ++i) digits += "0a";
  EXPECT_EQ(ReadOf(digits + "\n").value(), KeyOf(10));
  std::string no_digit = digits;
  no_digit[0] = 'g';
  for (const std::string& wrong : {std::string(), std::string(31, 'a'), digits.substr(2),
                                   digits + "0a", no_digit, digits + "\n x"}) {
    const auto key = ReadOf(wrong);
    EXPECT_TRUE(absl::IsInvalidArgument(key.status())) << wrong;
    EXPECT_THAT(Message(key.status()), HasSubstr("64 hexadecimal digits"));
  }
}

TEST_F(KeyFile, MayBeReadByItsOwnerOnly) {
  EXPECT_THAT(Message(ReadOf(std::string(32, 'k'), 0640).status()), HasSubstr("chmod 600"));
  EXPECT_THAT(Message(ReadStateKey("/no/such/file").status()), HasSubstr("/no/such/file"));
}

}  // namespace
}  // namespace tandem::kv_store
