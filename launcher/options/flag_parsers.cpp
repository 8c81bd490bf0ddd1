#include "launcher/options/flag_parsers.h"

#include <charconv>
#include <limits>
#include <utility>

namespace tandem::launcher {
namespace {

/// The number that a text begins with (-1: none), and the unit behind it.
template <typename T>
std::pair<T, std::string> NumberAndUnit(const std::string& text) {
  T number{};
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  return {error == std::errc() ? number : T{-1}, std::string(rest, end)};
}

}  // namespace

absl::StatusOr<int64_t> ParseSize(const std::string& text) {
  const auto wrong = [&text] {
    return InvalidArgument(
        "'{}' is no size; expected bytes, or a number with KiB, MiB, GiB, TiB or PiB (K and KB "
        "mean "
        "KiB, and so on), e.g. 512MiB or 1.5GiB",
        text);
  };
  const auto [number, rest] = NumberAndUnit<int64_t>(text);
  if (number < 0) return wrong();
  const bool fraction = rest.starts_with('.');
  auto [real, unit] = fraction ? NumberAndUnit<double>(text) : std::pair{0.0, rest};
  if (unit.size() > 1 && unit.front() == ' ') unit.erase(0, 1);
  for (char& c : unit) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  int shift = -1;
  for (const auto& [name, bits] :
       {std::pair{"K", 10}, {"M", 20}, {"G", 30}, {"T", 40}, {"P", 50}}) {
    const std::string letter = name;
    if (unit == letter || unit == letter + "B" || unit == letter + "IB") shift = bits;
  }
  if (!fraction && (unit.empty() || unit == "B")) shift = 0;
  if (shift < 0 || number >= (std::numeric_limits<int64_t>::max() >> shift)) return wrong();
  if (fraction) return static_cast<int64_t>(real * static_cast<double>(int64_t{1} << shift));
  return number << shift;
}

absl::StatusOr<double> ParseSeconds(const std::string& text) {
  constexpr double kLeast = 0.01;  // less would be no pause
  constexpr double kMost = 86400;
  const auto [seconds, unit] = NumberAndUnit<double>(text);
  if (!unit.empty() || !(seconds >= kLeast && seconds <= kMost)) {
    return InvalidArgument("'{}': expected seconds, from {} to {}", text, kLeast, kMost);
  }
  return seconds;
}

absl::StatusOr<double> ParseAge(const std::string& text) {
  const auto [number, unit] = NumberAndUnit<int64_t>(text);
  constexpr int64_t kMostNumber = 4'000'000'000;
  for (const auto& [name, seconds] :
       {std::pair{"", 1}, {"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}, {"w", 7 * 86400}}) {
    if (unit == name && number >= 0 && number <= kMostNumber) {
      return static_cast<double>(number) * seconds;
    }
  }
  return InvalidArgument("'{}' is no age; expected a number with s, m, h, d or w, e.g. 30d", text);
}

}  // namespace tandem::launcher
