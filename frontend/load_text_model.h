#pragma once

#include <memory>
#include <optional>
#include <string>

#include "core/model_file.h"
#include "core/status.h"
#include "frontend/chat_template.h"
#include "frontend/text_model.h"
#include "frontend/tokenizer.h"

namespace tandem::frontend {

/// The texts of a model's bos and eos tokens, for its template; empty where it has none.
struct SpecialTexts {
  std::string bos;
  std::string eos;
};
SpecialTexts SpecialTextsOf(const Vocabulary& vocabulary);

/// The template for a model's chats: `choice` (chatml, zephyr, a file), else the model's own, else
/// zephyr.
absl::StatusOr<SelectedTemplate> SelectTemplateOf(const core::GgufFile& file,
                                                  const std::optional<std::string>& choice,
                                                  SpecialTexts texts);

/// Tokenizer and chat template of a model file, as one. A choice that the user should know of is
/// logged. Errors name the file and what in it is wrong or unknown. The file must outlive the
/// result.
absl::StatusOr<std::unique_ptr<TextModel>> LoadTextModel(
    const core::ModelFile& file, const std::optional<std::string>& chat_template = std::nullopt);

}  // namespace tandem::frontend
