#include "kv_store/export/signing_key.h"

#include <fcntl.h>
#include <sodium.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <string_view>

namespace tandem::kv_store {
namespace {

constexpr size_t kMostFileBytes = 4096;
constexpr char kPlace[] = "tandem export key 1";

std::span<const std::byte> Place() { return std::as_bytes(std::span(kPlace)); }

std::string Hex(std::span<const uint8_t> bytes) {
  std::string text;
  for (const uint8_t byte : bytes) text += fmt::format("{:02x}", byte);
  return text;
}

std::optional<std::vector<uint8_t>> Unhex(std::string_view text) {
  if (text.size() < 2) return std::nullopt;
  std::vector<uint8_t> bytes(text.size() / 2);
  size_t written = 0;
  const char* end = nullptr;
  if (sodium_hex2bin(bytes.data(), bytes.size(), text.data(), text.size(), nullptr, &written,
                     &end) != 0 ||
      end != text.data() + text.size() || written != bytes.size()) {
    return std::nullopt;
  }
  return bytes;
}

std::string_view Trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

std::optional<PublicKey> PublicKeyOf(std::string_view text) {
  const auto bytes = Unhex(text);
  PublicKey key{};
  if (!bytes || bytes->size() != key.size()) return std::nullopt;
  std::memcpy(key.data(), bytes->data(), key.size());
  return key;
}

absl::StatusOr<SigningKey> ReadKey(const std::string& path, int file, const EncryptedBox* box) {
  struct stat facts {};
  std::string text(kMostFileBytes, '\0');
  const bool known = fstat(file, &facts) == 0;
  const ssize_t size = read(file, text.data(), text.size());
  if (!known || size < 0) return Unavailable("{}: {}", path, std::strerror(errno));
  if ((facts.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    return InvalidArgument(
        "{}: others may read it (mode {:04o}), and with it sign in your name; "
        "run: chmod 600 {}",
        path, facts.st_mode & 07777U, path);
  }
  text.resize(static_cast<size_t>(size));
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
  std::string temporary = path + ".XXXXXX";
  const int file = mkstemp(temporary.data());  // mode 0600
  if (file < 0) return Unavailable("{}: cannot be made: {}", path, std::strerror(errno));
  const bool written = write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
                       fsync(file) == 0;
  const int why = errno;
  close(file);
  sodium_memzero(text.data(), text.size());
  const bool made = written && (link(temporary.c_str(), path.c_str()) == 0 || errno == EEXIST);
  const int error = written ? errno : why;
  unlink(temporary.c_str());
  if (made) return absl::OkStatus();
  return Unavailable("{}: cannot be written: {}", path, std::strerror(error));
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
  int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0 && errno == ENOENT) {
    TANDEM_RETURN_IF_ERROR(MakeKey(path, box));
    file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  }
  if (file < 0) return Unavailable("{}: {}", path, std::strerror(errno));
  absl::StatusOr<SigningKey> key = ReadKey(path, file, box);
  close(file);
  return key;
}

absl::StatusOr<std::vector<PublicKey>> ReadPublicKeys(const std::string& text) {
  if (const auto key = PublicKeyOf(Trimmed(text))) return std::vector<PublicKey>{*key};
  std::ifstream file(text);
  if (!file) {
    return InvalidArgument(
        "'{}' is neither a public key (64 hexadecimal digits, as tandem kv export prints it) nor a "
        "file of them that can be read: {}",
        text, std::strerror(errno));
  }
  std::vector<PublicKey> keys;
  int number = 0;
  for (std::string line; std::getline(file, line);) {
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
