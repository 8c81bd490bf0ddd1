#include "launcher/options/flag_parsers.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

namespace tandem::launcher {
namespace {

template <typename T>
T ValueOrThrow(absl::StatusOr<T> value) {
  if (!value.ok()) throw CLI::ValidationError(Message(value.status()));
  return std::move(value).value();
}

}  // namespace

absl::StatusOr<int64_t> ParseSize(const std::string& text) {
  int64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  std::string unit(rest, end);
  for (char& c : unit) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  int shift = -1;
  for (const auto& [name, bits] : {std::pair{"K", 10}, {"M", 20}, {"G", 30}, {"T", 40}}) {
    const std::string letter = name;
    if (unit == letter || unit == letter + "B" || unit == letter + "IB") shift = bits;
  }
  if (unit.empty() || unit == "B") shift = 0;
  if (error != std::errc() || number < 0 || shift < 0 ||
      number > (std::numeric_limits<int64_t>::max() >> shift)) {
    return InvalidArgument("'{}' is no size; expected bytes, or a number with KiB, MiB or GiB",
                           text);
  }
  return number << shift;
}

absl::StatusOr<std::vector<int32_t>> ParseTokens(const std::string& text) {
  std::vector<int32_t> tokens;
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && (text[first] == '{' || text[first] == '[')) {
    const auto document = nlohmann::json::parse(text, nullptr, false);
    const auto& list =
        document.is_object() && document.contains("tokens") ? document["tokens"] : document;
    if (!list.is_array())
      return InvalidArgument("tokens: expected [1,2,3] or {{\"tokens\":[1,2,3]}}");
    for (const auto& entry : list) {
      if (!entry.is_number_integer() || entry < 0 || entry > std::numeric_limits<int32_t>::max()) {
        return InvalidArgument("tokens: {} is no token id", entry.dump());
      }
      tokens.push_back(entry.get<int32_t>());
    }
    return tokens;
  }
  std::string spaced = text;
  for (char& c : spaced) c = c == ',' ? ' ' : c;
  std::istringstream words(spaced);
  for (std::string word; words >> word;) {
    int32_t token = 0;
    const char* end = word.data() + word.size();
    const auto [rest, error] = std::from_chars(word.data(), end, token);
    if (error != std::errc() || rest != end || token < 0) {
      return InvalidArgument("tokens: '{}' is no token id; expected whole numbers, e.g. 1,2,3",
                             word);
    }
    tokens.push_back(token);
  }
  return tokens;
}

absl::StatusOr<double> ParseSeconds(const std::string& text) {
  constexpr double kMost = 86400;
  double seconds = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, seconds);
  if (error != std::errc() || rest != end || !(seconds > 0 && seconds <= kMost)) {
    return InvalidArgument("'{}': expected seconds, more than 0 and at most {}", text, kMost);
  }
  return seconds;
}

absl::StatusOr<double> ParseAge(const std::string& text) {
  int64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  const std::string unit(rest, end);
  constexpr int64_t kMostNumber = 1'000'000'000;
  for (const auto& [name, seconds] :
       {std::pair{"", 1}, {"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}, {"w", 7 * 86400}}) {
    if (error == std::errc() && unit == name && number >= 0 && number <= kMostNumber) {
      return static_cast<double>(number) * seconds;
    }
  }
  return InvalidArgument("'{}' is no age; expected a number with s, m, h, d or w, e.g. 30d", text);
}

std::function<void(const std::string&)> AgeParser(std::optional<double>& target) {
  return [&target](const std::string& text) { target = ValueOrThrow(ParseAge(text)); };
}

std::function<void(const std::string&)> OptionalSizeParser(std::optional<int64_t>& target) {
  return [&target](const std::string& text) { target = ValueOrThrow(ParseSize(text)); };
}

std::function<void(const std::string&)> SizeParser(int64_t& target) {
  return [&target](const std::string& text) { target = ValueOrThrow(ParseSize(text)); };
}

std::function<void(const std::string&)> SizesParser(std::vector<int64_t>& target) {
  return [&target](const std::string& text) {
    std::istringstream parts(text);
    for (std::string part; std::getline(parts, part, ',');) {
      target.push_back(ValueOrThrow(ParseSize(part)));
    }
  };
}

std::function<void(const std::string&)> TokensParser(std::vector<int32_t>& target, bool& given) {
  return [&target, &given](const std::string& text) {
    target = ValueOrThrow(ParseTokens(text));
    given = true;
  };
}

std::function<void(const std::string&)> SecondsParser(std::optional<double>& target,
                                                      double without) {
  return [&target, without](const std::string& text) {
    // CLI11 gives "true" for a flag without its value.
    target = text.empty() || text == "true" ? without : ValueOrThrow(ParseSeconds(text));
  };
}

}  // namespace tandem::launcher
