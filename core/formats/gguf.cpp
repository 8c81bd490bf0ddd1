#include "core/formats/gguf.h"

#include <cstring>
#include <limits>
#include <optional>
#include <utility>

namespace tandem::core {
namespace {

template <typename T>
T Load(const std::byte* data) {
  T value;
  std::memcpy(&value, data, sizeof(T));
  return value;
}

/// The integer at index i of packed values of that type; nothing if the type is no integer or the
/// value does not fit in int64.
std::optional<int64_t> IntegerAt(GgufType type, const std::byte* data, size_t i) {
  switch (type) {
    case GgufType::kUint8:
      return Load<uint8_t>(data + i);
    case GgufType::kInt8:
      return Load<int8_t>(data + i);
    case GgufType::kUint16:
      return Load<uint16_t>(data + 2 * i);
    case GgufType::kInt16:
      return Load<int16_t>(data + 2 * i);
    case GgufType::kUint32:
      return Load<uint32_t>(data + 4 * i);
    case GgufType::kInt32:
      return Load<int32_t>(data + 4 * i);
    case GgufType::kInt64:
      return Load<int64_t>(data + 8 * i);
    case GgufType::kUint64: {
      const auto value = Load<uint64_t>(data + 8 * i);
      if (value > uint64_t{std::numeric_limits<int64_t>::max()}) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    case GgufType::kFloat32:
    case GgufType::kFloat64:
    case GgufType::kBool:
    case GgufType::kString:
    case GgufType::kArray:
      return std::nullopt;
  }
  return std::nullopt;
}

std::optional<float> FloatAt(GgufType type, const std::byte* data, size_t i) {
  if (type == GgufType::kFloat32) return Load<float>(data + 4 * i);
  if (type == GgufType::kFloat64) return static_cast<float>(Load<double>(data + 8 * i));
  return std::nullopt;
}

std::optional<bool> BoolAt(GgufType type, const std::byte* data, size_t i) {
  if (type != GgufType::kBool) return std::nullopt;
  const auto value = Load<uint8_t>(data + i);
  if (value > 1) return std::nullopt;
  return value == 1;
}

/// The string at `data`, moved past it. The parser has checked the lengths.
std::string_view NextString(const std::byte*& data) {
  const auto length = Load<uint64_t>(data);
  const std::string_view text(reinterpret_cast<const char*>(data + sizeof(uint64_t)), length);
  data += sizeof(uint64_t) + length;
  return text;
}

std::string TypeText(const GgufEntry& entry) {
  if (entry.type != GgufType::kArray) return std::string(GgufTypeName(entry.type));
  return fmt::format("array of {} {}", entry.count, GgufTypeName(entry.element_type));
}

std::string ScalarText(GgufType type, const std::byte* data, size_t i, size_t max_length) {
  if (type == GgufType::kUint64) return fmt::format("{}", Load<uint64_t>(data + 8 * i));
  if (const auto integer = IntegerAt(type, data, i)) return fmt::format("{}", *integer);
  if (type == GgufType::kFloat64) return fmt::format("{}", Load<double>(data + 8 * i));
  if (const auto real = FloatAt(type, data, i)) return fmt::format("{}", *real);
  if (type == GgufType::kBool) return Load<uint8_t>(data + i) != 0 ? "true" : "false";
  return fmt::format("\"{}\"", PrintableText(NextString(data), max_length));
}

template <typename T>
absl::StatusOr<T> OrFallback(absl::StatusOr<T> value, T fallback) {
  if (absl::IsNotFound(value.status())) return fallback;
  return value;
}

}  // namespace

std::string_view GgufTypeName(GgufType type) {
  switch (type) {
    case GgufType::kUint8:
      return "uint8";
    case GgufType::kInt8:
      return "int8";
    case GgufType::kUint16:
      return "uint16";
    case GgufType::kInt16:
      return "int16";
    case GgufType::kUint32:
      return "uint32";
    case GgufType::kInt32:
      return "int32";
    case GgufType::kFloat32:
      return "float32";
    case GgufType::kBool:
      return "bool";
    case GgufType::kString:
      return "string";
    case GgufType::kArray:
      return "array";
    case GgufType::kUint64:
      return "uint64";
    case GgufType::kInt64:
      return "int64";
    case GgufType::kFloat64:
      return "float64";
  }
  return "unknown";
}

std::string PrintableText(std::string_view text, size_t max_length) {
  std::string_view part = text.substr(0, max_length);
  if (part.size() < text.size()) {
    // Not in the middle of a UTF-8 character.
    while (!part.empty() && (static_cast<uint8_t>(text[part.size()]) & 0xC0) == 0x80) {
      part.remove_suffix(1);
    }
  }
  std::string out;
  for (const char character : part) {
    const auto byte = static_cast<uint8_t>(character);
    if (byte == '\n') {
      out += "\\n";
    } else if (byte < 0x20 || byte == 0x7F) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += character;
    }
  }
  if (part.size() < text.size()) out += "...";
  return out;
}

std::string GgufTensor::ShapeText() const {
  std::string text = "[";
  for (size_t i = rank; i > 0; --i) text += fmt::format("{}{}", dims[i - 1], i > 1 ? ", " : "]");
  return text;
}

const GgufEntry* GgufFile::Find(std::string_view key) const {
  const auto found = entry_index_.find(key);
  return found == entry_index_.end() ? nullptr : &entries_[found->second];
}

void GgufFile::WillPick() const {
  if (!mapping_.bytes().empty()) mapping_.WillPick(mapping_.bytes().subspan(header_.size()));
  for (const auto& part : parts_) part->WillPick();
}

const GgufTensor* GgufFile::FindTensor(std::string_view name) const {
  const auto found = tensor_index_.find(name);
  return found == tensor_index_.end() ? nullptr : &tensors_[found->second];
}

absl::StatusOr<const GgufEntry*> GgufFile::Require(std::string_view key) const {
  const GgufEntry* entry = Find(key);
  if (entry == nullptr) return NotFound("{}: key '{}' is missing", path_, key);
  return entry;
}

absl::StatusOr<const GgufEntry*> GgufFile::RequireArray(std::string_view key) const {
  TANDEM_ASSIGN_OR_RETURN(const GgufEntry* entry, Require(key));
  if (entry->type != GgufType::kArray) return WrongType(*entry, "an array");
  return entry;
}

absl::Status GgufFile::WrongType(const GgufEntry& entry, std::string_view expected) const {
  return InvalidArgument("{}: key '{}': expected {}, found {} {}", path_, PrintableText(entry.key),
                         expected, TypeText(entry), ValueText(entry));
}

absl::StatusOr<int64_t> GgufFile::Integer(std::string_view key) const {
  TANDEM_ASSIGN_OR_RETURN(const GgufEntry* entry, Require(key));
  const std::optional<int64_t> value = IntegerAt(entry->type, entry->value.data(), 0);
  if (!value) return WrongType(*entry, "an integer");
  return *value;
}

absl::StatusOr<uint32_t> GgufFile::U32(std::string_view key) const {
  TANDEM_ASSIGN_OR_RETURN(const GgufEntry* entry, Require(key));
  const std::optional<int64_t> value = IntegerAt(entry->type, entry->value.data(), 0);
  if (!value || *value < 0 || *value > std::numeric_limits<uint32_t>::max()) {
    return WrongType(*entry, "an integer from 0 to 4294967295");
  }
  return static_cast<uint32_t>(*value);
}

absl::StatusOr<float> GgufFile::Float(std::string_view key) const {
  TANDEM_ASSIGN_OR_RETURN(const GgufEntry* entry, Require(key));
  const std::optional<float> value = FloatAt(entry->type, entry->value.data(), 0);
  if (!value) return WrongType(*entry, "a float");
  return *value;
}

absl::StatusOr<bool> GgufFile::Bool(std::string_view key) const {
  TANDEM_ASSIGN_OR_RETURN(const GgufEntry* entry, Require(key));
  const std::optional<bool> value = BoolAt(entry->type, entry->value.data(), 0);
  if (!value) return WrongType(*entry, "a bool (0 or 1)");
  return *value;
}

absl::StatusOr<std::string_view> GgufFile::String(std::string_view key) const {
  TANDEM_ASSIGN_OR_RETURN(const GgufEntry* entry, Require(key));
  if (entry->type != GgufType::kString) return WrongType(*entry, "a string");
  const std::byte* data = entry->value.data();
  return NextString(data);
}

absl::StatusOr<uint32_t> GgufFile::U32Or(std::string_view key, uint32_t fallback) const {
  return OrFallback(U32(key), fallback);
}

absl::StatusOr<float> GgufFile::FloatOr(std::string_view key, float fallback) const {
  return OrFallback(Float(key), fallback);
}

absl::StatusOr<bool> GgufFile::BoolOr(std::string_view key, bool fallback) const {
  return OrFallback(Bool(key), fallback);
}

absl::StatusOr<std::string_view> GgufFile::StringOr(std::string_view key,
                                                    std::string_view fallback) const {
  return OrFallback(String(key), fallback);
}

absl::StatusOr<std::vector<std::string_view>> GgufFile::Strings(std::string_view key) const {
  TANDEM_ASSIGN_OR_RETURN(const GgufEntry* entry, RequireArray(key));
  if (entry->element_type != GgufType::kString) return WrongType(*entry, "an array of strings");
  std::vector<std::string_view> strings;
  strings.reserve(static_cast<size_t>(entry->count));
  const std::byte* data = entry->value.data();
  for (int64_t i = 0; i < entry->count; ++i) strings.push_back(NextString(data));
  return strings;
}

absl::StatusOr<std::vector<int64_t>> GgufFile::Integers(std::string_view key) const {
  TANDEM_ASSIGN_OR_RETURN(const GgufEntry* entry, RequireArray(key));
  std::vector<int64_t> integers(static_cast<size_t>(entry->count));
  for (size_t i = 0; i < integers.size(); ++i) {
    const auto value = IntegerAt(entry->element_type, entry->value.data(), i);
    if (!value) return WrongType(*entry, "an array of integers");
    integers[i] = *value;
  }
  return integers;
}

absl::StatusOr<std::vector<float>> GgufFile::Floats(std::string_view key) const {
  TANDEM_ASSIGN_OR_RETURN(const GgufEntry* entry, RequireArray(key));
  std::vector<float> floats(static_cast<size_t>(entry->count));
  for (size_t i = 0; i < floats.size(); ++i) {
    const auto value = FloatAt(entry->element_type, entry->value.data(), i);
    if (!value) return WrongType(*entry, "an array of floats");
    floats[i] = *value;
  }
  return floats;
}

absl::StatusOr<std::vector<bool>> GgufFile::Bools(std::string_view key) const {
  TANDEM_ASSIGN_OR_RETURN(const GgufEntry* entry, RequireArray(key));
  std::vector<bool> bools(static_cast<size_t>(entry->count));
  for (size_t i = 0; i < bools.size(); ++i) {
    const auto value = BoolAt(entry->element_type, entry->value.data(), i);
    if (!value) return WrongType(*entry, "an array of bools (0 or 1)");
    bools[i] = *value;
  }
  return bools;
}

std::string GgufFile::ValueText(const GgufEntry& entry, size_t max_length) const {
  if (entry.type != GgufType::kArray) {
    return ScalarText(entry.type, entry.value.data(), 0, max_length);
  }
  constexpr int64_t kShortArray = 8;
  const bool flat =
      entry.element_type != GgufType::kArray && entry.element_type != GgufType::kString;
  if (!flat || entry.count > kShortArray) {
    return fmt::format("[{} x {}]", entry.count, GgufTypeName(entry.element_type));
  }
  std::string text = "[";
  for (int64_t i = 0; i < entry.count; ++i) {
    if (i > 0) text += ", ";
    text += ScalarText(entry.element_type, entry.value.data(), static_cast<size_t>(i), max_length);
  }
  return text + "]";
}

bool GgufFile::IsNeutral(const GgufEntry& entry) const {
  if (entry.type == GgufType::kString) {
    const auto text = String(entry.key);
    return text.ok() && (text->empty() || *text == "none");
  }
  // Zeros have no bit set, whatever their type; arrays of strings have lengths, which are set.
  return std::all_of(entry.value.begin(), entry.value.end(),
                     [](std::byte byte) { return byte == std::byte{0}; });
}

}  // namespace tandem::core
