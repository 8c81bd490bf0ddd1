#include "frontend/chat/shared_prefix.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>

namespace tandem::frontend {
namespace {

/// What may follow: texts of which each makes other tokens of what stands before, if anything does.
constexpr std::array<std::string_view, 9> kContinuations = {"a",   "Zz", "0", " b", "\n\nc",
                                                            ".\"", "\t", "é", "日"};

template <typename Encode>
absl::StatusOr<std::vector<int32_t>> CommonBeginning(const Encode& encode) {
  std::optional<std::vector<int32_t>> common;
  for (const std::string_view continuation : kContinuations) {
    TANDEM_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, encode(continuation));
    if (!common) common = tokens;
    const auto [end, other] =
        std::mismatch(common->begin(), common->end(), tokens.begin(), tokens.end());
    common->erase(end, common->end());
  }
  return *common;
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> TokensOfSystemMessage(const TextModel& model,
                                                           std::string_view system) {
  const auto encode = [&model](std::string_view message) {
    return [&model, message](std::string_view continuation) {
      const std::array<ChatMessage, 2> messages = {ChatMessage{"system", std::string(message)},
                                                   ChatMessage{"user", std::string(continuation)}};
      return model.EncodeChat(messages);
    };
  };
  TANDEM_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, CommonBeginning(encode(system)));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<int32_t> other,
                          CommonBeginning(encode(std::string(system) + " And more.")));
  if (tokens == other) {
    return FailedPrecondition("model {}: its chat template leaves system messages out",
                              model.name());
  }
  return tokens;
}

absl::StatusOr<std::vector<int32_t>> TokensOfText(const TextModel& model, std::string_view text) {
  return CommonBeginning([&](std::string_view continuation) {
    return model.EncodeText(std::string(text) + std::string(continuation));
  });
}

}  // namespace tandem::frontend
