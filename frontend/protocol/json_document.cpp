#include "frontend/protocol/json_document.h"

#include <algorithm>
#include <set>
#include <vector>

#include "frontend/protocol/protocol_fields.h"

namespace tandem::frontend {
namespace {

using Json = nlohmann::json;

/// What a JSON text looks like, found without building anything, so that a hostile text costs one
/// pass.
struct Outline {
  int deepest = 0;     // levels of nesting
  int64_t values = 1;  // about
  int64_t fields = 0;  // of all objects, if it is JSON
};
Outline OutlineOf(std::string_view text) {
  int depth = 0;
  Outline outline;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      outline.deepest = std::max(outline.deepest, ++depth);
      ++outline.values;
    } else if (c == ']' || c == '}') {
      --depth;
    } else if (c == ',') {
      ++outline.values;
    } else if (c == ':') {
      ++outline.fields;
    }
  }
  return outline;
}

int64_t FieldsOf(const Json& value) {
  if (!value.is_structured()) return 0;
  int64_t fields = value.is_object() ? static_cast<int64_t>(value.size()) : 0;
  for (const Json& member : value) fields += FieldsOf(member);
  return fields;
}

/// Finds the first field that its object has already.
class TwiceFinder final : public nlohmann::json_sax<Json> {
 public:
  std::string name;

  bool key(std::string& text) override {
    if (open_.back().insert(text).second) return true;
    name = text;
    return false;
  }
  bool start_object(size_t) override {
    open_.emplace_back();
    return true;
  }
  bool end_object() override {
    open_.pop_back();
    return true;
  }
  bool string(std::string&) override { return true; }
  bool start_array(size_t) override { return true; }
  bool end_array() override { return true; }
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(int64_t) override { return true; }
  bool number_unsigned(uint64_t) override { return true; }
  bool number_float(double, const std::string&) override { return true; }
  bool binary(Json::binary_t&) override { return true; }
  bool parse_error(size_t, const std::string&, const Json::exception&) override { return false; }

 private:
  std::vector<std::set<std::string>> open_;  // the fields so far of the objects around
};

}  // namespace

absl::StatusOr<nlohmann::json> ParseDocument(std::string_view text, std::string_view what,
                                             const JsonLimits& limits) {
  const Outline outline = OutlineOf(text);
  if (outline.deepest > limits.depth) {
    return InvalidArgument("{} nests {} levels deep, at most {} are allowed", what, outline.deepest,
                           limits.depth);
  }
  if (outline.values > limits.values) {
    return InvalidArgument("{} has {} values, at most {} are allowed", what, outline.values,
                           limits.values);
  }
  // The parser takes a zero byte for the end of the text.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos) {
    return InvalidArgument("{} is not JSON in UTF-8: byte {} is zero", what, zero + 1);
  }
  try {
    Json document = Json::parse(text);
    if (FieldsOf(document) != outline.fields) {
      // Most parsers take the last one and some the first: nobody knows which was meant.
      TwiceFinder twice;
      Json::sax_parse(text, &twice);
      return InvalidArgument("{}: it is given twice in one object; send it once",
                             Shown(Json(twice.name)));
    }
    return document;
  } catch (const Json::parse_error& error) {
    return InvalidArgument("{} is not JSON in UTF-8: the text goes wrong at byte {}", what,
                           error.byte);
  } catch (const Json::exception&) {
    return InvalidArgument("{} holds a number too large for a double: send a smaller one", what);
  }
}

std::string DumpJson(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', /*ensure_ascii=*/false,
                   nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace tandem::frontend
