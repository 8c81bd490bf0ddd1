#pragma once

#include <string>
#include <string_view>

#include "core/base/status.h"
#include "core/model/attention_form.h"

namespace tandem::core {

/// What ParseAttentionForm takes.
inline constexpr std::string_view kAttentionGrammar =
    "dense, sparse:window=W[,global=G][,random=R][,seed=S] or "
    "infini:segment=N[,gate=B][,update=delta|linear]";

/// "dense", "sparse:window=W,..." or "infini:segment=N,...": keys in any order, each once.
/// kInvalidArgument with the place of the first error and the grammar.
absl::StatusOr<AttentionForm> ParseAttentionForm(std::string_view text);
/// The shortest text that ParseAttentionForm makes this form of: equal forms have equal texts.
std::string AttentionText(const AttentionForm& form);

}  // namespace tandem::core
