#pragma once

#include <string>
#include <string_view>

#include "core/base/status.h"
#include "core/model/attention_form.h"

namespace tandem::core {

/// What ParseAttentionForm takes.
inline constexpr std::string_view kAttentionGrammar =
    "dense or sparse:window=W[,global=G][,random=R][,seed=S]";

/// "dense" or "sparse:window=W,...": keys in any order, each once, numbers in decimal digits.
/// kInvalidArgument with the place of the first error and the grammar.
absl::StatusOr<AttentionForm> ParseAttentionForm(std::string_view text);
/// The shortest text that ParseAttentionForm makes this form of: equal forms have equal texts.
std::string AttentionText(const AttentionForm& form);

}  // namespace tandem::core
