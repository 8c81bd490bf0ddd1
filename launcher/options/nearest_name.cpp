#include "launcher/options/nearest_name.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "fmt/format.h"

namespace tandem::launcher {
namespace {

/// How many letters must change to make one word of the other (Levenshtein 1966).
size_t Distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, replaced}));
    }
  }
  return row.back();
}

}  // namespace

std::string Nearest(const std::string& word, const std::vector<std::string>& names) {
  const auto nearest = std::min_element(
      names.begin(), names.end(),
      [&](const auto& a, const auto& b) { return Distance(word, a) < Distance(word, b); });
  return nearest == names.end() ? "" : *nearest;
}

std::string DidYouMean(const std::string& word, const std::vector<std::string>& names) {
  const std::string nearest = Nearest(word, names);
  const bool near = Distance(word, nearest) <= std::max<size_t>(word.size() / 4, 2);
  return near && !nearest.empty() ? fmt::format(" (did you mean {}?)", nearest) : "";
}

}  // namespace tandem::launcher
