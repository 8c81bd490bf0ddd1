#pragma once

#include <memory>

#include "core/model_file.h"
#include "core/status.h"
#include "frontend/text_model.h"

namespace tandem::launcher {

/// The tokenizer and template of a model file. Where `tokens_suffice`, a file without a tokenizer
/// is taken too: its answers have token ids and no text.
absl::StatusOr<std::unique_ptr<frontend::TextModel>> LoadTextSide(const core::ModelFile& file,
                                                                  bool tokens_suffice);

}  // namespace tandem::launcher
