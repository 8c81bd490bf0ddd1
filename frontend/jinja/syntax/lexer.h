#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace tandem::frontend::jinja {

enum class TokenType {
  kData,  // text outside of tags, white space control already applied
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,  // text is the unescaped value
  kInteger,
  kFloat,
  kOperator,  // text is the operator
  kEnd
};

struct Token {
  TokenType type = TokenType::kEnd;
  int line = 0;
  std::string text;
  int64_t integer = 0;
  double number = 0.0;

  bool Is(TokenType wanted, std::string_view value) const {
    return type == wanted && text == value;
  }
  bool IsName(std::string_view name) const { return Is(TokenType::kName, name); }
  bool IsOperator(std::string_view symbol) const { return Is(TokenType::kOperator, symbol); }
};

/// How an error message names the token.
std::string Describe(const Token& token);

/// Cuts a template into tokens as jinja2.lexer does with trim_blocks and lstrip_blocks set:
/// newlines are made "\n", one at the end is dropped, comments are gone. The last token is kEnd.
/// Fails with InvalidArgument, "line N: ...", on text that is no template.
absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source);

}  // namespace tandem::frontend::jinja
