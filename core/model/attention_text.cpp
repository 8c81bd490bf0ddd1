#include "core/model/attention_text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>

namespace tandem::core {
namespace {

constexpr std::string_view kDense = "dense";
constexpr std::string_view kSparse = "sparse:";
constexpr uint64_t kMostTokens = std::numeric_limits<int>::max();

/// One key of the text, and the numbers that it takes.
struct Key {
  std::string_view name;
  uint64_t least;
  uint64_t most;
};
constexpr Key kKeys[] = {{"window", 1, kMostTokens},
                         {"global", 0, kMostTokens},
                         {"random", 0, kMostTokens},
                         {"seed", 0, std::numeric_limits<uint64_t>::max()}};
constexpr size_t kKeyCount = std::size(kKeys);

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  absl::StatusOr<AttentionForm> Parse() {
    if (text_ == kDense) return AttentionForm{};
    if (!text_.starts_with(kSparse)) return Error(0, "expected dense or sparse:");
    at_ = kSparse.size();
    for (;;) {
      TANDEM_RETURN_IF_ERROR(ReadKey());
      if (at_ == text_.size()) break;
      if (text_[at_] != ',') return Error(at_, "expected a comma or the end");
      ++at_;
    }
    if (!read_[0]) return Error(at_, "window=W is missing");
    AttentionForm form{.window = static_cast<int>(values_[0]),
                       .global = static_cast<int>(values_[1]),
                       .random = static_cast<int>(values_[2]),
                       .seed = values_[3]};
    if (form.random == 0) form.seed = 0;
    return form;
  }

 private:
  absl::Status ReadKey() {
    const size_t begin = at_;
    while (at_ < text_.size() && text_[at_] != '=' && text_[at_] != ',') ++at_;
    const std::string_view name = text_.substr(begin, at_ - begin);
    const auto* const key = std::ranges::find(kKeys, name, &Key::name);
    if (key == std::end(kKeys)) {
      return Error(begin, "expected window, global, random or seed");
    }
    const auto index = static_cast<size_t>(key - std::begin(kKeys));
    if (read_[index]) return Error(begin, fmt::format("{} is there twice", name));
    if (at_ == text_.size() || text_[at_] != '=') return Error(at_, "expected =");
    ++at_;
    read_[index] = true;
    return ReadNumber(*key, values_[index]);
  }

  absl::Status ReadNumber(const Key& key, uint64_t& value) {
    const size_t begin = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
    if (at_ == begin) return Error(begin, fmt::format("expected the number of {}", key.name));
    const auto read = std::from_chars(text_.data() + begin, text_.data() + at_, value);
    if (read.ec != std::errc() || value < key.least || value > key.most) {
      return Error(begin, fmt::format("{} is {} to {}", key.name, key.least, key.most));
    }
    return absl::OkStatus();
  }

  absl::Status Error(size_t place, std::string_view what) const {
    const std::string_view rest = text_.substr(place);
    return InvalidArgument("{} at character {}{}: {}; the form is {}", text_, place + 1,
                           rest.empty() ? " (the end)" : fmt::format(" (\"{}\")", rest), what,
                           kAttentionGrammar);
  }

  const std::string_view text_;
  size_t at_ = 0;
  std::array<bool, kKeyCount> read_{};
  std::array<uint64_t, kKeyCount> values_{};
};

}  // namespace

absl::StatusOr<AttentionForm> ParseAttentionForm(std::string_view text) {
  return Parser(text).Parse();
}

std::string AttentionText(const AttentionForm& form) {
  if (!form.sparse()) return std::string(kDense);
  std::string text = fmt::format("{}window={}", kSparse, form.window);
  if (form.global > 0) text += fmt::format(",global={}", form.global);
  if (form.random > 0) text += fmt::format(",random={}", form.random);
  if (form.random > 0 && form.seed > 0) text += fmt::format(",seed={}", form.seed);
  return text;
}

}  // namespace tandem::core
