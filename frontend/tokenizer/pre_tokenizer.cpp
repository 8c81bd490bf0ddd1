#include "frontend/tokenizer/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <utility>

#include "fmt/ranges.h"

namespace tandem::frontend {
namespace {

// Far above what text of ordinary size needs (a match costs a few steps a character), and low
// enough that a hostile one is refused within about a second.
constexpr uint32_t kMaxSteps = 50'000'000;
constexpr uint32_t kMaxHeapKib = 64 * 1024;

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct FreeMatchData {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct FreeMatchContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

std::string ErrorText(int error) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(error, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

/// `\s` and `\S` as the property White_Space. PCRE2's own `\s` has U+180E besides.
std::string WithUnicodeSpace(std::string_view pattern) {
  std::string expanded;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '\\' || i + 1 == pattern.size()) {
      expanded += pattern[i];
      continue;
    }
    const char letter = pattern[++i];
    if (letter == 's') {
      expanded += "\\p{White_Space}";
    } else if (letter == 'S') {
      expanded += "\\P{White_Space}";
    } else {
      expanded += '\\';
      expanded += letter;
    }
  }
  return expanded;
}

/// Memory of one Split call.
struct Scratch {
  std::unique_ptr<pcre2_match_data, FreeMatchData> data;
  std::unique_ptr<pcre2_match_context, FreeMatchContext> context;

  static absl::StatusOr<Scratch> Create() {
    Scratch scratch;
    scratch.data.reset(pcre2_match_data_create(1, nullptr));
    scratch.context.reset(pcre2_match_context_create(nullptr));
    if (scratch.data == nullptr || scratch.context == nullptr) {
      return ResourceExhausted("no memory for matching a regular expression");
    }
    pcre2_set_match_limit(scratch.context.get(), kMaxSteps);
    pcre2_set_heap_limit(scratch.context.get(), kMaxHeapKib);
    return scratch;
  }
};

}  // namespace

class PreTokenizer::Pattern {
 public:
  static absl::StatusOr<Pattern> Compile(std::string_view source) {
    const std::string expanded = WithUnicodeSpace(source);
    int error = 0;
    PCRE2_SIZE offset = 0;
    Pattern pattern;
    pattern.code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expanded.data()),
                                      expanded.size(), PCRE2_UTF | PCRE2_UCP | PCRE2_DOLLAR_ENDONLY,
                                      &error, &offset, nullptr));
    if (pattern.code_ == nullptr) {
      return Internal("the pattern '{}' does not compile at offset {}: {}", expanded, offset,
                      ErrorText(error));
    }
    // Where there is no just-in-time compiler, matching is interpreted.
    pcre2_jit_compile(pattern.code_.get(), PCRE2_JIT_COMPLETE);
    return pattern;
  }

  /// Appends the pieces of one piece.
  absl::Status Split(std::string_view text, Scratch& scratch,
                     std::vector<std::string_view>& pieces) const {
    size_t done = 0;  // bytes of the text given out
    size_t at = 0;    // where the next match may begin
    while (at < text.size()) {
      const int count = Match(text, at, scratch);
      if (count == PCRE2_ERROR_NOMATCH) break;
      if (count < 0) {
        return ResourceExhausted(
            "the text is too hard to split into words: {} in {} bytes from byte {} on; send it in "
            "smaller pieces",
            ErrorText(count), text.size(), at);
      }
      const PCRE2_SIZE* match = pcre2_get_ovector_pointer(scratch.data.get());
      if (match[0] > done) pieces.push_back(text.substr(done, match[0] - done));
      if (match[1] > match[0]) pieces.push_back(text.substr(match[0], match[1] - match[0]));
      done = match[1];
      at = match[1] > match[0] ? match[1] : match[1] + 1;
    }
    if (done < text.size()) pieces.push_back(text.substr(done));
    return absl::OkStatus();
  }

 private:
  int Match(std::string_view text, size_t at, Scratch& scratch) const {
    const auto match = [&](uint32_t options) {
      return pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                         options, scratch.data.get(), scratch.context.get());
    };
    const int count = match(PCRE2_NO_UTF_CHECK);
    // Compiled code has a small stack; the interpreter uses the heap, up to the limit set.
    if (count == PCRE2_ERROR_JIT_STACKLIMIT) return match(PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT);
    return count;
  }

  std::unique_ptr<pcre2_code, FreeCode> code_;
};

PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;
PreTokenizer::~PreTokenizer() = default;

absl::StatusOr<PreTokenizer> PreTokenizer::Create(std::string_view name) {
  PreTokenizer pre_tokenizer;
  for (const PreTokenizerEntry& entry : PreTokenizerTable()) {
    if (std::find(entry.names.begin(), entry.names.end(), name) == entry.names.end()) continue;
    pre_tokenizer.entry_ = &entry;
    for (const std::string_view source : entry.patterns) {
      TANDEM_ASSIGN_OR_RETURN(Pattern pattern, Pattern::Compile(source));
      pre_tokenizer.patterns_.push_back(std::move(pattern));
    }
    return pre_tokenizer;
  }
  return InvalidArgument("unknown pre-tokenizer '{}'; known are {}", name,
                         fmt::join(Names(), ", "));
}

std::vector<std::string_view> PreTokenizer::Names() {
  std::vector<std::string_view> names;
  for (const PreTokenizerEntry& entry : PreTokenizerTable()) {
    names.insert(names.end(), entry.names.begin(), entry.names.end());
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<std::vector<std::string_view>> PreTokenizer::Split(std::string_view text) const {
  std::vector<std::string_view> pieces;
  if (text.empty()) return pieces;
  TANDEM_ASSIGN_OR_RETURN(Scratch scratch, Scratch::Create());
  pieces.push_back(text);
  std::vector<std::string_view> finer;
  for (const Pattern& pattern : patterns_) {
    finer.clear();
    for (const std::string_view piece : pieces) {
      TANDEM_RETURN_IF_ERROR(pattern.Split(piece, scratch, finer));
    }
    pieces.swap(finer);
  }
  return pieces;
}

}  // namespace tandem::frontend
