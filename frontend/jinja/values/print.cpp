#include "frontend/jinja/values/print.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "frontend/jinja/values/iterate.h"
#include "frontend/jinja/values/unicode.h"

namespace tandem::frontend::jinja {
namespace {

// Builds the text of nested values; knows whether any part came from a client.
class Writer {
 public:
  explicit Writer(Sandbox& sandbox) : sandbox_(sandbox) {}

  absl::StatusOr<Text> Take() {
    TANDEM_RETURN_IF_ERROR(ChargeWritten());
    return Text(std::move(out_), trusted_);
  }

 protected:
  // Call once per value written.
  absl::Status Step() {
    TANDEM_RETURN_IF_ERROR(ChargeWritten());
    TANDEM_RETURN_IF_ERROR(sandbox_.Charge(1));
    return sandbox_.CheckStringSize(out_.size());
  }
  void Note(const Value& scalar) { trusted_ = trusted_ && AllTrusted(scalar); }

  Sandbox& sandbox_;
  std::string out_;

 private:
  // Fuel for what has been written since the last call.
  absl::Status ChargeWritten() {
    constexpr size_t kBytesPerStep = 4;
    const size_t before = std::exchange(charged_, out_.size());
    return sandbox_.Charge(static_cast<int64_t>((out_.size() - before) / kBytesPerStep));
  }

  size_t charged_ = 0;  // bytes that fuel was spent for
  bool trusted_ = true;
};

class ReprWriter : public Writer {
 public:
  using Writer::Writer;

  absl::Status Write(const Value& value) {
    TANDEM_RETURN_IF_ERROR(Step());
    switch (value.type()) {
      case Type::kUndefined:
        out_ += "Undefined";
        return absl::OkStatus();
      case Type::kNone:
        out_ += "None";
        Note(value);
        return absl::OkStatus();
      case Type::kBool:
        out_ += value.boolean() ? "True" : "False";
        Note(value);
        return absl::OkStatus();
      case Type::kInt:
        out_ += std::to_string(value.integer());
        Note(value);
        return absl::OkStatus();
      case Type::kFloat:
        out_ += FloatRepr(value.number());
        Note(value);
        return sandbox_.Charge(kFloatReprSteps);
      case Type::kString:
        TANDEM_RETURN_IF_ERROR(sandbox_.Charge(static_cast<int64_t>(value.text().size() / 16)));
        out_ += StringRepr(value.bytes(), value.markup());
        Note(value);
        return absl::OkStatus();
      case Type::kList:
        return WriteItems("[", value.as<Sequence>().items, "]");
      case Type::kTuple: {
        const std::vector<Value>& items = value.as<Sequence>().items;
        return WriteItems("(", items, items.size() == 1 ? ",)" : ")");
      }
      case Type::kDict:
        return WriteDict(value.as<Dict>());
      case Type::kNamespace:
        return WriteNamespace(value.as<Dict>());
      case Type::kRange: {
        const Range& range = value.as<Range>();
        out_ += range.step == 1
                    ? fmt::format("range({}, {})", range.start, range.stop)
                    : fmt::format("range({}, {}, {})", range.start, range.stop, range.step);
        return absl::OkStatus();
      }
      case Type::kDictView:
        return WriteView(value, value.as<DictView>());
      case Type::kIterator:
        out_ += "<generator object>";
        return absl::OkStatus();
      case Type::kNative:
        out_ += value.as<Native>().Describe();
        return absl::OkStatus();
    }
    return absl::OkStatus();
  }

 private:
  absl::Status WriteItems(std::string_view open, const std::vector<Value>& items,
                          std::string_view close) {
    out_ += open;
    for (size_t index = 0; index < items.size(); ++index) {
      out_ += index == 0 ? "" : ", ";
      TANDEM_RETURN_IF_ERROR(Write(items[index]));
    }
    out_ += close;
    return absl::OkStatus();
  }

  absl::Status WriteDict(const Dict& dict) {
    out_ += "{";
    for (size_t index = 0; index < dict.size(); ++index) {
      out_ += index == 0 ? "" : ", ";
      TANDEM_RETURN_IF_ERROR(Write(dict.entries()[index].first));
      out_ += ": ";
      TANDEM_RETURN_IF_ERROR(Write(dict.entries()[index].second));
    }
    out_ += "}";
    return absl::OkStatus();
  }

  // Namespaces alone can hold themselves.
  absl::Status WriteNamespace(const Dict& fields) {
    if (open_namespaces_ == kMaxOpenNamespaces) {
      return ResourceExhausted("namespaces hold one another deeper than {}", kMaxOpenNamespaces);
    }
    ++open_namespaces_;
    out_ += "<Namespace ";
    TANDEM_RETURN_IF_ERROR(WriteDict(fields));
    out_ += ">";
    --open_namespaces_;
    return absl::OkStatus();
  }

  absl::Status WriteView(const Value& value, const DictView& view) {
    out_ += view.part == DictView::Part::kKeys     ? "dict_keys("
            : view.part == DictView::Part::kValues ? "dict_values("
                                                   : "dict_items(";
    TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(sandbox_, value));
    TANDEM_RETURN_IF_ERROR(WriteItems("[", items, "]"));
    out_ += ")";
    return absl::OkStatus();
  }

  static constexpr int kMaxOpenNamespaces = 8;
  int open_namespaces_ = 0;
};

class JsonWriter : public Writer {
 public:
  JsonWriter(Sandbox& sandbox, const JsonStyle& style) : Writer(sandbox), style_(style) {}

  absl::Status Write(const Value& value) {
    TANDEM_RETURN_IF_ERROR(Step());
    switch (value.type()) {
      case Type::kNone:
      case Type::kBool:
      case Type::kInt:
      case Type::kFloat:
        Note(value);
        out_ += Scalar(value);
        return sandbox_.Charge(value.is(Type::kFloat) ? kFloatReprSteps : 0);
      case Type::kString:
        return WriteString(value);
      case Type::kList:
      case Type::kTuple:
        return WriteList(value.as<Sequence>().items);
      case Type::kDict:
        return WriteDict(value.as<Dict>());
      default:
        return InvalidArgument("tojson: an object of type {} has no JSON form", TypeName(value));
    }
  }

 private:
  static std::string Scalar(const Value& value) {
    switch (value.type()) {
      case Type::kBool:
        return value.boolean() ? "true" : "false";
      case Type::kInt:
        return std::to_string(value.integer());
      case Type::kFloat: {
        const double number = value.number();
        return std::isnan(number)   ? "NaN"
               : std::isinf(number) ? (number > 0 ? "Infinity" : "-Infinity")
                                    : FloatRepr(number);
      }
      default:
        return "null";
    }
  }

  void BreakLine() {
    if (style_.indent) {
      out_ += '\n';
      for (int level = 0; level < level_; ++level) out_ += *style_.indent;
    }
  }

  absl::Status WriteList(const std::vector<Value>& items) {
    out_ += '[';
    ++level_;
    for (size_t index = 0; index < items.size(); ++index) {
      out_ += index == 0 ? "" : style_.item_separator;
      BreakLine();
      TANDEM_RETURN_IF_ERROR(Write(items[index]));
    }
    --level_;
    if (!items.empty()) BreakLine();
    out_ += ']';
    return absl::OkStatus();
  }

  absl::Status WriteDict(const Dict& dict) {
    std::vector<const Dict::Entry*> entries;
    for (const Dict::Entry& entry : dict.entries()) entries.push_back(&entry);
    if (style_.sort_keys) {
      TANDEM_RETURN_IF_ERROR(Sort(entries));
    }
    out_ += '{';
    ++level_;
    for (size_t index = 0; index < entries.size(); ++index) {
      out_ += index == 0 ? "" : style_.item_separator;
      BreakLine();
      TANDEM_RETURN_IF_ERROR(WriteKey(entries[index]->first));
      out_ += style_.key_separator;
      TANDEM_RETURN_IF_ERROR(Write(entries[index]->second));
    }
    --level_;
    if (!entries.empty()) BreakLine();
    out_ += '}';
    return absl::OkStatus();
  }

  absl::Status Sort(std::vector<const Dict::Entry*>& entries) {
    constexpr int64_t kComparisons = 8;
    constexpr size_t kKeyBytesPerStep = 4;  // they are compared with several others
    for (const Dict::Entry* entry : entries) {
      if (!entry->first.IsString()) {
        return InvalidArgument("tojson: keys of type {} cannot be sorted", TypeName(entry->first));
      }
      TANDEM_RETURN_IF_ERROR(sandbox_.Charge(kComparisons));
      TANDEM_RETURN_IF_ERROR(
          sandbox_.Charge(static_cast<int64_t>(entry->first.text().size() / kKeyBytesPerStep)));
    }
    std::stable_sort(entries.begin(), entries.end(),
                     [](const Dict::Entry* left, const Dict::Entry* right) {
                       return left->first.bytes() < right->first.bytes();
                     });
    return absl::OkStatus();
  }

  absl::Status WriteKey(const Value& key) {
    switch (key.type()) {
      case Type::kString:
        return WriteString(key);
      case Type::kNone:
      case Type::kBool:
      case Type::kInt:
      case Type::kFloat:
        Note(key);
        out_ += '"';
        out_ += Scalar(key);
        out_ += '"';
        return absl::OkStatus();
      default:
        return InvalidArgument("tojson: keys must be str, int, float, bool or None, not {}",
                               TypeName(key));
    }
  }

  absl::Status WriteString(const Value& value) {
    const std::string& bytes = value.bytes();
    TANDEM_RETURN_IF_ERROR(sandbox_.Charge(static_cast<int64_t>(bytes.size() / 16)));
    Note(value);
    out_ += '"';
    for (size_t offset = 0; offset < bytes.size();) {
      const CodePoint point = DecodeAt(bytes, offset);
      WriteCharacter(point.value, std::string_view(bytes).substr(offset, point.length));
      offset += point.length;
    }
    out_ += '"';
    return absl::OkStatus();
  }

  void WriteCharacter(char32_t value, std::string_view raw) {
    constexpr std::string_view kEscaped = "\"\\\n\r\t\f\b";
    constexpr std::string_view kLetters = "\"\\nrtfb";
    const size_t known =
        value < 0x80 ? kEscaped.find(static_cast<char>(value)) : std::string_view::npos;
    if (known != std::string_view::npos) {
      out_ += '\\';
      out_ += kLetters[known];
    } else if (value < 0x20 || (style_.ensure_ascii && value > 0x7E && value < 0x10000)) {
      out_ += fmt::format("\\u{:04x}", static_cast<uint32_t>(value));
    } else if (style_.ensure_ascii && value >= 0x10000) {
      const auto rest = static_cast<uint32_t>(value - 0x10000);
      out_ += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (rest >> 10), 0xDC00 + (rest & 0x3FF));
    } else {
      out_ += raw;
    }
  }

  const JsonStyle& style_;
  int level_ = 0;
};

}  // namespace

int64_t FloatSteps(double value, int64_t precision) {
  const int64_t exponent = value == 0.0 || !std::isfinite(value) ? 0 : std::ilogb(value) * 3 / 10;
  return kFloatReprSteps + 2 * std::abs(exponent) + std::clamp<int64_t>(precision, 0, 1000);
}

std::string FloatRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[64];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific).ptr;
  const std::string_view scientific(buffer, static_cast<size_t>(end - buffer));
  const size_t mark = scientific.find('e');
  int exponent = 0;
  const char* exponent_begin = scientific.data() + mark + 1;
  exponent_begin += *exponent_begin == '+';
  std::from_chars(exponent_begin, end, exponent);
  const bool negative = scientific.front() == '-';
  std::string digits;
  for (const char character : scientific.substr(0, mark)) {
    if (character >= '0' && character <= '9') digits.push_back(character);
  }
  std::string result(negative ? 1 : 0, '-');
  const auto count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    result += digits.substr(0, 1);
    if (count > 1) {
      result += '.';
      result += digits.substr(1);
    }
    return result + fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0) {
    return result + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  }
  if (count <= exponent + 1) {
    return result + digits + std::string(static_cast<size_t>(exponent + 1 - count), '0') + ".0";
  }
  const size_t whole = static_cast<size_t>(exponent) + 1;
  result += digits.substr(0, whole);
  result += '.';
  return result + digits.substr(whole);
}

std::string StringRepr(const std::string& bytes, bool markup) {
  const bool single = bytes.find('\'') != std::string::npos;
  const bool both = single && bytes.find('"') != std::string::npos;
  const char quote = single && !both ? '"' : '\'';
  std::string out = markup ? "Markup(" : "";
  out += quote;
  for (size_t offset = 0; offset < bytes.size();) {
    const CodePoint point = DecodeAt(bytes, offset);
    const auto code = static_cast<uint32_t>(point.value);
    if (point.value == static_cast<unsigned char>(quote) || point.value == '\\') {
      out += '\\';
      out += static_cast<char>(point.value);
    } else if (point.value == '\n') {
      out += "\\n";
    } else if (point.value == '\r') {
      out += "\\r";
    } else if (point.value == '\t') {
      out += "\\t";
    } else if (IsPrintable(point.value)) {
      out.append(bytes, offset, point.length);
    } else if (code < 0x100) {
      out += fmt::format("\\x{:02x}", code);
    } else if (code < 0x10000) {
      out += fmt::format("\\u{:04x}", code);
    } else {
      out += fmt::format("\\U{:08x}", code);
    }
    offset += point.length;
  }
  out += quote;
  out += markup ? ")" : "";
  return out;
}

absl::StatusOr<Text> ToText(Sandbox& sandbox, const Value& value) {
  if (value.IsString()) return value.text();
  if (value.IsUndefined()) return Text();
  return Repr(sandbox, value);
}

absl::StatusOr<Text> Repr(Sandbox& sandbox, const Value& value) {
  ReprWriter writer(sandbox);
  TANDEM_RETURN_IF_ERROR(writer.Write(value));
  return writer.Take();
}

absl::StatusOr<Text> EscapedText(Sandbox& sandbox, const Value& value) {
  TANDEM_ASSIGN_OR_RETURN(Text text, ToText(sandbox, value));
  if (value.IsString() && value.markup()) return text;
  Text escaped;
  const std::string& bytes = text.bytes();
  TANDEM_RETURN_IF_ERROR(sandbox.Charge(static_cast<int64_t>(bytes.size() / 16)));
  int64_t entities = 0;
  size_t begin = 0;
  for (size_t offset = 0; offset < bytes.size(); ++offset) {
    const char character = bytes[offset];
    const std::string_view entity = character == '&'    ? "&amp;"
                                    : character == '<'  ? "&lt;"
                                    : character == '>'  ? "&gt;"
                                    : character == '"'  ? "&#34;"
                                    : character == '\'' ? "&#39;"
                                                        : "";
    if (!entity.empty()) {
      escaped.Append(text, begin, offset);
      escaped.Append(entity, text.TrustedAt(offset));
      begin = offset + 1;
      ++entities;
    }
  }
  escaped.Append(text, begin, bytes.size());
  TANDEM_RETURN_IF_ERROR(sandbox.Charge(entities / 2));
  return escaped;
}

absl::StatusOr<Text> ToJson(Sandbox& sandbox, const Value& value, const JsonStyle& style) {
  JsonWriter writer(sandbox, style);
  TANDEM_RETURN_IF_ERROR(writer.Write(value));
  return writer.Take();
}

}  // namespace tandem::frontend::jinja
