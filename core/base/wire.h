#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "core/base/status.h"

namespace tandem::core {

/// Builds a message of little-endian numbers and counted strings. Thread safety: none.
class WireWriter {
 public:
  template <typename T>
  void Number(T value) {
    static_assert(std::is_arithmetic_v<T> && std::endian::native == std::endian::little);
    const size_t at = bytes_.size();
    bytes_.resize(at + sizeof(T));
    std::memcpy(bytes_.data() + at, &value, sizeof(T));
  }
  void Bool(bool value) { Number<uint8_t>(value ? 1 : 0); }
  void Count(size_t count) { Number(static_cast<uint32_t>(count)); }
  void Text(std::string_view text) {
    Count(text.size());
    Raw(std::as_bytes(std::span(text)));
  }
  template <typename T>
  void Numbers(std::span<const T> values) {
    static_assert(std::is_arithmetic_v<T>);
    Count(values.size());
    Raw(std::as_bytes(values));
  }
  void Raw(std::span<const std::byte> bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }

  const std::vector<std::byte>& bytes() const { return bytes_; }
  std::vector<std::byte> Take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

/// Reads what a WireWriter wrote, trusting nothing: every read is checked against what is left and
/// every count against a limit. The first error sticks and later reads give zeros, so a decoder
/// reads straight through and asks for the status once, before it uses anything.
/// Thread safety: none.
class WireReader {
 public:
  /// `what` names the message in errors; bytes must outlive the reader.
  WireReader(std::string_view what, std::span<const std::byte> bytes)
      : what_(what), bytes_(bytes) {}

  template <typename T>
  T Number() {
    static_assert(std::is_arithmetic_v<T>);
    T value{};
    if (Need(sizeof(T))) {
      std::memcpy(&value, bytes_.data() + at_, sizeof(T));
      at_ += sizeof(T);
    }
    return value;
  }
  /// Exactly 0 or 1.
  bool Bool();
  /// A count of things that take at least `bytes_each`, at most `limit`.
  size_t Count(size_t limit, size_t bytes_each, std::string_view of);
  std::string Text(size_t limit, std::string_view of);
  template <typename T>
  std::vector<T> Numbers(size_t limit, std::string_view of) {
    std::vector<T> values(Count(limit, sizeof(T), of));
    if (!values.empty()) {
      std::memcpy(values.data(), bytes_.data() + at_, values.size() * sizeof(T));
      at_ += values.size() * sizeof(T);
    }
    return values;
  }
  std::vector<std::byte> Raw(size_t size);

  /// Sticks unless an earlier error did.
  void Fail(absl::Status status);
  bool ok() const { return status_.ok(); }
  size_t left() const { return bytes_.size() - at_; }
  /// The first error, or one if bytes are left over.
  absl::Status Finish();

 private:
  bool Need(size_t size);

  std::string_view what_;
  std::span<const std::byte> bytes_;
  size_t at_ = 0;
  absl::Status status_;
};

}  // namespace tandem::core
