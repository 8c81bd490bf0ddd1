#include "frontend/http/api/json_body.h"

#include <algorithm>
#include <cstdint>
#include <set>
#include <vector>

#include "frontend/protocol/protocol_fields.h"

namespace tandem::frontend {
namespace {

using RequestJson = nlohmann::json;

/// What it would take to build a text's document, if it is JSON.
struct JsonShape {
  int depth = 0;
  int64_t values = 1;  // about
};
JsonShape ShapeOf(std::string_view text) {
  JsonShape shape;
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      shape.depth = std::max(shape.depth, ++depth);
      ++shape.values;
    } else if (c == ']' || c == '}') {
      --depth;
    } else if (c == ',') {
      ++shape.values;
    }
  }
  return shape;
}

/// Finds the first field that its object has already.
class RepeatedFieldFinder final : public nlohmann::json_sax<RequestJson> {
 public:
  std::string name;
  bool found = false;

  bool key(std::string& text) override {
    if (open_.back().insert(text).second) return true;
    name = text;
    found = true;
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
  bool binary(RequestJson::binary_t&) override { return true; }
  bool parse_error(size_t, const std::string&, const RequestJson::exception&) override {
    return false;
  }

 private:
  std::vector<std::set<std::string>> open_;  // the fields so far of the objects around
};

}  // namespace

absl::StatusOr<nlohmann::json> ParseBody(std::string_view body, int depth) {
  if (body.empty()) return InvalidArgument("the body is empty: send one JSON object");
  // The parser takes a zero byte for the end of the text.
  if (const size_t zero = body.find('\0'); zero != std::string_view::npos) {
    return InvalidArgument("the body is not JSON in UTF-8: byte {} is zero", zero + 1);
  }
  const JsonShape shape = ShapeOf(body);
  if (shape.depth > depth) {
    return InvalidArgument("the body nests {} levels deep, at most {} are allowed", shape.depth,
                           depth);
  }
  // Each takes tens of bytes, several times over.
  constexpr int64_t kMostValues = int64_t{1} << 20;
  if (shape.values > kMostValues) {
    return InvalidArgument("the body has {} values, at most {} are allowed", shape.values,
                           kMostValues);
  }
  try {
    RequestJson document = RequestJson::parse(body);
    if (!document.is_object()) {
      return InvalidArgument("the body is not a JSON object, but {}", Shown(document));
    }
    // Most parsers take the last one and some the first: nobody knows which was meant.
    RepeatedFieldFinder finder;
    RequestJson::sax_parse(body, &finder);
    if (finder.found) {
      return InvalidArgument("{}: it is given twice in one object; send it once",
                             Shown(RequestJson(finder.name)));
    }
    return document;
  } catch (const RequestJson::parse_error& error) {
    return InvalidArgument("the body is not JSON in UTF-8: the text goes wrong at byte {}",
                           error.byte);
  } catch (const std::exception&) {
    return InvalidArgument("the body holds a number too large for a double: send a smaller one");
  }
}

std::string DumpJson(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', /*ensure_ascii=*/false,
                   nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace tandem::frontend
