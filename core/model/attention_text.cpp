#include "core/model/attention_text.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "core/model/kv_view.h"

namespace tandem::core {
namespace {

constexpr std::string_view kDense = "dense";
constexpr std::string_view kSparse = "sparse:";
constexpr std::string_view kInfini = "infini:";
constexpr std::string_view kUpdates[] = {"delta", "linear"};  // [AttentionForm::Update]
constexpr uint64_t kMostTokens = std::numeric_limits<int>::max();

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  absl::StatusOr<AttentionForm> Parse() {
    if (text_ == kDense) return AttentionForm{};
    if (text_.starts_with(kSparse)) return Sparse();
    if (text_.starts_with(kInfini)) return Infini();
    return Error(0, "expected dense, sparse: or infini:");
  }

 private:
  absl::StatusOr<AttentionForm> Sparse() {
    uint64_t window = 0;
    uint64_t global = 0;
    uint64_t random = 0;
    uint64_t seed = 0;
    at_ = kSparse.size();
    TANDEM_RETURN_IF_ERROR(
        ReadKeys({{"window", [&] { return ReadNumber("window", 1, kMostTokens, window); }},
                  {"global", [&] { return ReadNumber("global", 0, kMostTokens, global); }},
                  {"random", [&] { return ReadNumber("random", 0, kMostTokens, random); }},
                  {"seed", [&] { return ReadNumber("seed", 0, ~uint64_t{0}, seed); }}}));
    if (window == 0) return Error(at_, "window=W is missing");
    return AttentionForm{.window = static_cast<int>(window),
                         .global = static_cast<int>(global),
                         .random = static_cast<int>(random),
                         .seed = random == 0 ? 0 : seed};
  }

  absl::StatusOr<AttentionForm> Infini() {
    uint64_t segment = 0;
    AttentionForm form;
    const auto read_segment = [&]() -> absl::Status {
      const size_t begin = at_;
      const absl::Status read = ReadNumber("segment", 1, kMostTokens, segment);
      if (!read.ok() || segment % kPageTokens == 0) return read;
      return Error(begin, fmt::format("segment is a multiple of {}", kPageTokens));
    };
    at_ = kInfini.size();
    TANDEM_RETURN_IF_ERROR(ReadKeys({{"segment", read_segment},
                                     {"gate", [&] { return ReadGate(form.gate); }},
                                     {"update", [&] { return ReadUpdate(form.update); }}}));
    if (segment == 0) return Error(at_, "segment=N is missing");
    form.segment = static_cast<int>(segment);
    return form;
  }

  /// One key of a form, and what reads its value.
  struct Key {
    std::string_view name;
    std::function<absl::Status()> read;
  };

  /// Keys in any order, each once, up to the end.
  absl::Status ReadKeys(const std::vector<Key>& keys) {
    std::vector<bool> read(keys.size());
    for (;;) {
      const size_t begin = at_;
      while (at_ < text_.size() && text_[at_] != '=' && text_[at_] != ',') ++at_;
      const std::string_view name = text_.substr(begin, at_ - begin);
      const auto key = std::ranges::find(keys, name, &Key::name);
      if (key == keys.end()) return Error(begin, Expected(keys));
      const auto index = static_cast<size_t>(key - keys.begin());
      if (read[index]) return Error(begin, fmt::format("{} is there twice", name));
      if (at_ == text_.size() || text_[at_] != '=') return Error(at_, "expected =");
      ++at_;
      read[index] = true;
      TANDEM_RETURN_IF_ERROR(key->read());
      if (at_ == text_.size()) return absl::OkStatus();
      if (text_[at_] != ',') return Error(at_, "expected a comma or the end");
      ++at_;
    }
  }

  static std::string Expected(const std::vector<Key>& keys) {
    std::string text = "expected ";
    for (size_t i = 0; i < keys.size(); ++i) {
      text += i == 0 ? "" : i + 1 == keys.size() ? " or " : ", ";
      text += keys[i].name;
    }
    return text;
  }

  absl::Status ReadNumber(std::string_view name, uint64_t least, uint64_t most, uint64_t& value) {
    const size_t begin = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
    if (at_ == begin) return Error(begin, fmt::format("expected the number of {}", name));
    const auto read = std::from_chars(text_.data() + begin, text_.data() + at_, value);
    if (read.ec != std::errc() || value < least || value > most) {
      return Error(begin, fmt::format("{} is {} to {}", name, least, most));
    }
    return absl::OkStatus();
  }

  absl::Status ReadGate(std::optional<float>& gate) {
    float value = 0.0F;
    const auto read = std::from_chars(text_.data() + at_, text_.data() + text_.size(), value);
    if (read.ec != std::errc() || !std::isfinite(value)) {
      return Error(at_, "expected the number of gate, which is a float32");
    }
    at_ = static_cast<size_t>(read.ptr - text_.data());
    gate = value == 0.0F ? 0.0F : value;  // -0 is 0
    return absl::OkStatus();
  }

  absl::Status ReadUpdate(AttentionForm::Update& update) {
    const size_t begin = at_;
    while (at_ < text_.size() && text_[at_] != ',') ++at_;
    const auto* const found = std::ranges::find(kUpdates, text_.substr(begin, at_ - begin));
    if (found == std::end(kUpdates)) return Error(begin, "update is delta or linear");
    update = static_cast<AttentionForm::Update>(found - std::begin(kUpdates));
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
};

std::string InfiniText(const AttentionForm& form) {
  std::string text = fmt::format("{}segment={}", kInfini, form.segment);
  if (form.gate) text += fmt::format(",gate={}", *form.gate);
  if (form.update != AttentionForm::Update::kDelta) {
    text += fmt::format(",update={}", kUpdates[static_cast<size_t>(form.update)]);
  }
  return text;
}

}  // namespace

absl::StatusOr<AttentionForm> ParseAttentionForm(std::string_view text) {
  return Parser(text).Parse();
}

std::string AttentionText(const AttentionForm& form) {
  if (form.infini()) return InfiniText(form);
  if (!form.sparse()) return std::string(kDense);
  std::string text = fmt::format("{}window={}", kSparse, form.window);
  if (form.global > 0) text += fmt::format(",global={}", form.global);
  if (form.random > 0) text += fmt::format(",random={}", form.random);
  if (form.random > 0 && form.seed > 0) text += fmt::format(",seed={}", form.seed);
  return text;
}

}  // namespace tandem::core
