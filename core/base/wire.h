#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "core/base/status.h"

/// Messages of little-endian numbers and counted lists. Each message lists its fields once, for the
/// writer and the reader, in a function beside it (in its namespace):
///
///     template <typename Archive>
///     void Fields(Archive& archive, Message& message) {
///       archive(message.id, AtMost(message.tokens, kMostTokens, "tokens"));
///       archive.Require(message.id != 0, "a message without a number");
///     }
///
/// Archive is a WireWriter, which changes nothing, or a WireReader. A field is a number, a flag (a
/// byte, 0 or 1), an array of bytes, a pair, an optional (a flag, then the value if there is one),
/// a message with Fields of its own, a variant (the fields of what it holds), or one of these:
namespace tandem::core {

/// How most items are written and read: as a field.
struct AsField {
  template <typename Archive, typename Item>
  void operator()(Archive& archive, Item& item) const {
    archive(item);
  }
};

/// A text or a list: the count as uint32, then the items. A reader refuses more than `most`. `of`
/// names them in errors. `each(archive, item)` writes or reads an item.
template <typename List, typename Each = AsField>
struct AtMost {
  AtMost(List& the_items, size_t limit, std::string_view what, Each item = {})
      : items(the_items), most(limit), of(what), each(item) {}

  List& items;
  size_t most;
  std::string_view of;
  Each each;
};

/// An enumeration from 0 up to `last`: a byte.
template <typename Enum>
struct UpTo {
  UpTo(Enum& the_value, Enum largest, std::string_view what)
      : value(the_value), last(largest), of(what) {}

  Enum& value;
  Enum last;
  std::string_view of;
};

/// Which of its alternatives a variant holds: a byte.
template <typename Variant>
struct KindOf {
  KindOf(Variant& the_variant, std::string_view what) : variant(the_variant), of(what) {}

  Variant& variant;
  std::string_view of;
};

/// The part that writers and readers share: what each kind of field is made of.
template <typename Archive>
class FieldVisitor {
 public:
  template <typename... Field>
  void operator()(Field&&... fields) {
    (Visit(Changeable(fields)), ...);
  }

  /// Fails a reader where the condition does not hold; a writer is trusted.
  template <typename... Args>
  void Require(bool holds, fmt::format_string<Args...> format, Args&&... args) {
    if constexpr (Archive::kReads) {
      if (!self().ok() || holds) return;
      self().Fail(InvalidArgument("{}: {}", self().what(),
                                  fmt::format(format, std::forward<Args>(args)...)));
    }
  }
  /// For fields that are not members: sets members from what was read.
  template <typename Set>
  void WhenRead(const Set& set) {
    if constexpr (Archive::kReads) {
      if (self().ok()) set();
    }
  }

 private:
  Archive& self() { return static_cast<Archive&>(*this); }

  /// A writer changes nothing, so what is const may be written.
  template <typename T>
  static auto& Changeable(T& field) {
    if constexpr (Archive::kReads) {
      return field;
    } else {
      return const_cast<std::remove_const_t<T>&>(field);
    }
  }

  template <typename T>
  void Visit(T& field) {
    if constexpr (std::is_arithmetic_v<T>) {
      self().Bytes(std::as_writable_bytes(std::span(&field, 1)));
    } else if constexpr (!std::is_empty_v<T>) {
      Fields(self(), field);
    }
  }
  void Visit(bool& flag) {
    auto byte = static_cast<uint8_t>(flag);
    Visit(byte);
    Require(byte <= 1, "a flag is {}, expected 0 or 1", byte);
    WhenRead([&] { flag = byte == 1; });
  }
  template <size_t count>
  void Visit(std::array<uint8_t, count>& bytes) {
    self().Bytes(std::as_writable_bytes(std::span(bytes)));
  }
  template <typename First, typename Second>
  void Visit(std::pair<First, Second>& pair) {
    Visit(pair.first);
    Visit(pair.second);
  }
  template <typename T>
  void Visit(std::optional<T>& optional) {
    bool there = optional.has_value();
    Visit(there);
    if (!there) return;
    WhenRead([&] { optional.emplace(); });
    if (optional) Visit(*optional);
  }
  template <typename... T>
  void Visit(std::variant<T...>& variant) {
    std::visit([this](auto& held) { this->Visit(held); }, variant);
  }
  template <typename Variant>
  void Visit(KindOf<Variant>& kind) {
    VisitKind(Changeable(kind.variant), kind.of);
  }
  template <typename... T>
  void VisitKind(std::variant<T...>& variant, std::string_view of) {
    auto kind = static_cast<uint8_t>(variant.index());
    Visit(kind);
    Require(kind < sizeof...(T), "{} is no kind of {}", kind, of);
    WhenRead([&] {
      size_t next = 0;
      ((next++ == kind ? static_cast<void>(variant.template emplace<T>()) : void()), ...);
    });
  }
  template <typename Enum>
  void Visit(UpTo<Enum>& limited) {
    static_assert(sizeof(Enum) == 1);
    auto number = static_cast<uint8_t>(limited.value);
    Visit(number);
    Require(number <= static_cast<uint8_t>(limited.last), "{} is no {}", number, limited.of);
    WhenRead([&] { limited.value = static_cast<Enum>(number); });
  }
  template <typename List, typename Each>
  void Visit(AtMost<List, Each>& list) {
    auto& items = Changeable(list.items);
    using Item = typename std::remove_const_t<List>::value_type;
    constexpr bool numbers = std::is_arithmetic_v<Item> && std::is_same_v<Each, AsField>;
    auto count = static_cast<uint32_t>(items.size());
    Visit(count);
    if constexpr (Archive::kReads) {
      size_t least = sizeof(Item);
      if constexpr (!numbers) least = LeastBytes<Item>(list.each);
      items.resize(self().Checked(count, list.most, least, list.of));
    }
    if constexpr (numbers) {
      self().Bytes(std::as_writable_bytes(std::span(items)));
    } else {
      for (auto& item : items) {
        if (!self().ok()) return;
        list.each(self(), item);
      }
    }
  }

  /// Nothing is shorter than an item whose lists are empty.
  template <typename Item, typename Each>
  static size_t LeastBytes(const Each& each) {
    static const size_t least = [&] {
      typename Archive::Writer writer;
      Item item{};
      each(writer, item);
      return std::max<size_t>(1, writer.bytes().size());
    }();
    return least;
  }
};

/// Builds a message. Thread safety: none.
class WireWriter : public FieldVisitor<WireWriter> {
 public:
  static constexpr bool kReads = false;
  static_assert(std::endian::native == std::endian::little);

  void Bool(bool value) { (*this)(value); }
  template <typename T>
  void Numbers(std::span<const T> values) {
    (*this)(static_cast<uint32_t>(values.size()));
    Raw(std::as_bytes(values));
  }
  void Raw(std::span<const std::byte> bytes);
  void Bytes(std::span<std::byte> bytes) { Raw(bytes); }
  static bool ok() { return true; }

  const std::vector<std::byte>& bytes() const { return bytes_; }
  std::vector<std::byte> Take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

/// Reads what a WireWriter wrote, trusting nothing: every read is checked against what is left and
/// every count against a limit. The first error sticks and later fields stay as they were, so a
/// decoder reads straight through and asks for the status once, before it uses anything.
/// Thread safety: none.
class WireReader : public FieldVisitor<WireReader> {
 public:
  static constexpr bool kReads = true;
  using Writer = WireWriter;

  /// `what` names the message in errors; bytes must outlive the reader.
  WireReader(std::string_view what, std::span<const std::byte> bytes)
      : what_(what), bytes_(bytes) {}

  void Bytes(std::span<std::byte> bytes);
  /// The count, or 0 and an error: at most `most`, of things that take at least `least` bytes.
  size_t Checked(size_t count, size_t most, size_t least, std::string_view of);

  /// Sticks unless an earlier error did.
  void Fail(absl::Status status);
  std::string_view what() const { return what_; }
  bool ok() const { return status_.ok(); }
  size_t left() const { return bytes_.size() - at_; }
  /// The first error, or one if bytes are left over.
  absl::Status Finish();

 private:
  std::string_view what_;
  std::span<const std::byte> bytes_;
  size_t at_ = 0;
  absl::Status status_;
};

template <typename Message>
std::vector<std::byte> Encode(const Message& message) {
  WireWriter writer;
  writer(message);
  return writer.Take();
}

/// kInvalidArgument, saying what is wrong, for everything that Encode did not write.
template <typename Message>
absl::StatusOr<Message> Decode(std::string_view what, std::span<const std::byte> bytes) {
  WireReader reader(what, bytes);
  Message message{};
  reader(message);
  TANDEM_RETURN_IF_ERROR(reader.Finish());
  return message;
}

/// A status: its code, and the first 64 KiB of its message.
template <typename Archive>
void Fields(Archive& archive, absl::Status& status) {
  constexpr size_t kLongest = 1 << 16;
  constexpr auto kHighest = static_cast<int32_t>(absl::StatusCode::kUnauthenticated);
  auto code = static_cast<int32_t>(status.code());
  std::string text = tandem::Message(status).substr(0, kLongest);
  archive(code, AtMost(text, kLongest, "bytes of a status"));
  archive.Require(code >= 0 && code <= kHighest, "{} is no status code", code);
  archive.WhenRead([&] { status = absl::Status(static_cast<absl::StatusCode>(code), text); });
}

}  // namespace tandem::core
