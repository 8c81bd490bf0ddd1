#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "core/base/status.h"
#include "frontend/tokenizer/vocabulary.h"

namespace tandem::frontend {

/// Text of which some ranges may hold control tokens.
struct SplitText {
  struct Range {
    size_t begin = 0;
    size_t end = 0;
  };
  std::string text;
  std::vector<Range> trusted;  // ascending, not touching each other
};

/// Finds whole tokens in text before it is encoded: user-defined ones anywhere, control ones within
/// trusted ranges. Leftmost match first; of several there, the longest that is allowed.
/// Thread safety: immutable.
class TokenSplitter {
 public:
  /// `spelling` gives the text to look for, for each user-defined and control token.
  TokenSplitter(const Vocabulary& vocabulary, absl::FunctionRef<std::string(int32_t id)> spelling);

  /// Calls the two functions in the order of the text; `on_text` never gets an empty range. Stops
  /// at the first error.
  absl::Status Split(const SplitText& text,
                     absl::FunctionRef<absl::Status(std::string_view)> on_text,
                     absl::FunctionRef<void(int32_t id)> on_token) const;

 private:
  struct Entry {
    std::string spelling;
    int32_t id = 0;
    bool control = false;
  };
  struct Match {
    int32_t id = 0;
    size_t length = 0;  // 0 = no match
  };

  /// The longest entry that `rest` begins with; control tokens of up to `trusted` bytes.
  Match Longest(std::string_view rest, size_t trusted) const;

  std::vector<Entry> entries_;         // by spelling, unique
  std::vector<size_t> first_of_byte_;  // [257] entries_ that begin with byte b: [b], [b + 1]
};

}  // namespace tandem::frontend
