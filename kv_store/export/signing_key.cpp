#include "kv_store/export/signing_key.h"

#include <sodium.h>

#include <cstring>
#include <optional>
#include <sstream>
#include <string_view>
#include <utility>

#include "core/system/text_file.h"
#include "kv_store/base/files.h"
#include "kv_store/base/hex.h"

namespace tandem::kv_store {
namespace {

constexpr char kPlace[] = "tandem export key 1";

std::span<const std::byte> Place() { return std::as_bytes(std::span(kPlace)); }

std::string_view Trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

std::optional<PublicKey> PublicKeyOf(std::string_view text) {
  return UnhexArray<std::tuple_size_v<PublicKey>>(text);
}

absl::StatusOr<SigningKey> KeyIn(const std::string& path, std::string text,
                                 const EncryptedBox* box) {
  const auto damaged = [&path](std::string_view what) {
    return InvalidArgument(
        "{}: {}; put the file back, or remove it for a new key, which others "
        "then have to trust anew",
        path, what);
  };
  auto bytes = Unhex(Trimmed(text));
  if (!bytes) return damaged("expected hexadecimal digits");
  if (box != nullptr) {
    auto opened = box->Open(Place(), std::as_bytes(std::span(*bytes)));
    if (!opened.ok()) return damaged("it does not open with this --state-key");
    bytes->resize(opened->size());
    if (!opened->empty()) std::memcpy(bytes->data(), opened->data(), opened->size());
    sodium_memzero(opened->data(), opened->size());
  }
  SigningKey::Seed seed{};
  if (bytes->size() != seed.size()) {
    return damaged(fmt::format(
        "expected a key of {} bytes, found {}{}", seed.size(), bytes->size(),
        box == nullptr && bytes->size() > seed.size() ? " (was it made with a --state-key?)" : ""));
  }
  std::memcpy(seed.data(), bytes->data(), seed.size());
  SigningKey key(seed);
  sodium_memzero(seed.data(), seed.size());
  sodium_memzero(bytes->data(), bytes->size());
  sodium_memzero(text.data(), text.size());
  return key;
}

/// Makes the file whole or not at all; one that another process makes first stays.
absl::Status MakeKey(const std::string& path, const EncryptedBox* box) {
  SigningKey::Seed seed{};
  randombytes_buf(seed.data(), seed.size());
  std::string text = Hex(seed);
  if (box != nullptr) {
    const std::vector<std::byte> encrypted = box->Seal(0, Place(), std::as_bytes(std::span(seed)));
    text = Hex({reinterpret_cast<const uint8_t*>(encrypted.data()), encrypted.size()});
  }
  text += '\n';
  sodium_memzero(seed.data(), seed.size());
  absl::Status made = WriteWholeFile(path, text, /*sync=*/true, WholeFile::Before::kKeep);
  sodium_memzero(text.data(), text.size());
  return made;
}

}  // namespace

std::string PublicKeyText(const PublicKey& key) { return Hex(key); }

SigningKey::SigningKey(const Seed& seed) {
  static_assert(std::tuple_size_v<Seed> == crypto_sign_SEEDBYTES);
  static_assert(std::tuple_size_v<PublicKey> == crypto_sign_PUBLICKEYBYTES);
  [[maybe_unused]] const int already = sodium_init();
  crypto_sign_seed_keypair(public_key_.data(), secret_.data(), seed.data());
}
SigningKey::~SigningKey() { sodium_memzero(secret_.data(), secret_.size()); }

absl::StatusOr<SigningKey> OpenSigningKey(const std::string& directory, const EncryptedBox* box) {
  [[maybe_unused]] const int already = sodium_init();
  const std::string path = directory + "/export.key";
  absl::StatusOr<std::string> text = ReadSmallFile(path, /*secret=*/true);
  if (absl::IsNotFound(text.status())) {
    TANDEM_RETURN_IF_ERROR(MakeKey(path, box));
    text = ReadSmallFile(path, /*secret=*/true);
  }
  TANDEM_RETURN_IF_ERROR(text.status());
  return KeyIn(path, *std::move(text), box);
}

absl::StatusOr<std::vector<PublicKey>> ReadPublicKeys(const std::string& text) {
  if (const auto key = PublicKeyOf(Trimmed(text))) return std::vector<PublicKey>{*key};
  const absl::StatusOr<std::string> file = ReadTextFile(text);
  if (!file.ok()) {
    return InvalidArgument(
        "'{}' is neither a public key (64 hexadecimal digits, as tandem kv export prints it) nor a "
        "file of them that can be read: {}",
        text, Message(file.status()));
  }
  std::vector<PublicKey> keys;
  int number = 0;
  std::istringstream lines(*file);
  for (std::string line; std::getline(lines, line);) {
    ++number;
    const std::string_view word = Trimmed(line);
    if (word.empty() || word.front() == '#') continue;
    const auto key = PublicKeyOf(word);
    if (!key) {
      return InvalidArgument("{}, line {}: expected a public key, 64 hexadecimal digits", text,
                             number);
    }
    keys.push_back(*key);
  }
  if (keys.empty()) return InvalidArgument("{}: there is no public key in it", text);
  return keys;
}

}  // namespace tandem::kv_store
