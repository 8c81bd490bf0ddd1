#pragma once

#include <memory>
#include <string>

#include "core/base/status.h"
#include "core/formats/model_file.h"
#include "frontend/chat/text_model.h"

namespace tandem::launcher {

/// The tokenizer and template of a model file; `chat_template` (chatml, zephyr, a file) instead of
/// its own, if not empty. Where `tokens_suffice`, a file without a tokenizer is taken too: its
/// answers have token ids and no text.
absl::StatusOr<std::unique_ptr<frontend::TextModel>> LoadTextSide(const core::ModelFile& file,
                                                                  const std::string& chat_template,
                                                                  bool tokens_suffice);

}  // namespace tandem::launcher
