#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/formats/model_file.h"
#include "frontend/chat/generation.h"
#include "frontend/chat/text_model.h"

namespace tandem::launcher {

/// The tokenizer and template of a model file; `chat_template` (chatml, zephyr, a file) instead of
/// its own, if not empty. Where `tokens_suffice`, a file without a tokenizer is taken too: its
/// answers have token ids and no text.
absl::StatusOr<std::unique_ptr<frontend::TextModel>> LoadTextSide(const core::ModelFile& file,
                                                                  const std::string& chat_template,
                                                                  bool tokens_suffice);

/// What no row of a flag says: that there are no more stop strings than the protocol takes, and
/// that an answer in this context, if it is known, may have min_tokens. kInvalidArgument.
absl::Status CheckGeneration(const frontend::GenerationParams& params,
                             std::optional<int64_t> context = {});

/// That what came from `where` is a text. kInvalidArgument, naming the first byte that is none.
absl::Status CheckInputText(const std::string& text, std::string_view where = "standard input");

/// "1,2,3", spaces allowed, as ids; also the JSON that `tandem tokenize --json` writes.
/// kInvalidArgument naming the bad entry.
absl::StatusOr<std::vector<int32_t>> ParseTokens(const std::string& text);

}  // namespace tandem::launcher
