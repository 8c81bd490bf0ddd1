#include "launcher/options/nearest_name.h"

#include <algorithm>
#include <cctype>
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

/// As it is compared: Max_Tokens is near to max-tokens.
std::string Folded(std::string word) {
  for (char& c : word) {
    c = c == '_' ? '-' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return word;
}

size_t FoldedDistance(const std::string& a, const std::string& b) {
  return Distance(Folded(a), Folded(b));
}

}  // namespace

std::string Nearest(const std::string& word, const std::vector<std::string>& names) {
  const auto nearest =
      std::min_element(names.begin(), names.end(), [&](const auto& a, const auto& b) {
        return FoldedDistance(word, a) < FoldedDistance(word, b);
      });
  return nearest == names.end() ? "" : *nearest;
}

bool IsNear(const std::string& word, const std::string& name) {
  const size_t distance = FoldedDistance(word, name);
  return distance <= std::max<size_t>(word.size() / 4, 2) &&
         distance < std::min(word.size(), name.size());
}

std::string DidYouMean(const std::string& word, const std::vector<std::string>& names) {
  constexpr size_t kLeastBeginning = 4;  // of which two may be dashes
  const auto begins = [&](const std::string& name) {
    return Folded(name).starts_with(Folded(word));
  };
  if (word.size() >= kLeastBeginning && std::count_if(names.begin(), names.end(), begins) == 1) {
    return fmt::format(" (did you mean {}?)", *std::find_if(names.begin(), names.end(), begins));
  }
  const std::string nearest = Nearest(word, names);
  return IsNear(word, nearest) ? fmt::format(" (did you mean {}?)", nearest) : "";
}

}  // namespace tandem::launcher
