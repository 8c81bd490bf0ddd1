#include "frontend/http/api/answer_ids.h"

#include <fmt/format.h>
#include <sodium.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <vector>

namespace tandem::frontend {
namespace {

constexpr size_t kTimeDigits = 13;
constexpr size_t kRandomDigits = 19;
constexpr int64_t kMicroseconds = 1'000'000;

}  // namespace

std::string RandomHex(size_t digits) {
  std::vector<unsigned char> bytes((digits + 1) / 2);
  randombytes_buf(bytes.data(), bytes.size());
  std::string text;
  for (const unsigned char byte : bytes) text += fmt::format("{:02x}", byte);
  text.resize(digits);
  return text;
}

std::string AnswerIds::Next(std::string_view prefix) {
  const int64_t now = std::chrono::duration_cast<std::chrono::microseconds>(
                          std::chrono::system_clock::now().time_since_epoch())
                          .count();
  last_ = std::max(now, last_ + 1);
  return fmt::format("{}{:0{}x}{}", prefix, last_, kTimeDigits, RandomHex(kRandomDigits));
}

int64_t SecondsOfId(std::string_view id, std::string_view prefix) {
  const std::string_view digits = id.substr(prefix.size(), kTimeDigits);
  int64_t microseconds = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), microseconds, 16);
  return microseconds / kMicroseconds;
}

}  // namespace tandem::frontend
