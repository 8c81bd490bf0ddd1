#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/status.h"
#include "frontend/jinja/syntax/lexer.h"

namespace tandem::frontend::jinja {

/// A place in a list of tokens, and the errors that name it.
class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& current() const { return tokens_[position_]; }
  const Token& ahead() const { return tokens_[std::min(position_ + 1, tokens_.size() - 1)]; }
  /// The current token, and steps to the next (the end stays the end).
  const Token& Next();

  bool AtType(TokenType type) const { return current().type == type; }
  bool AtName(std::string_view name) const { return current().IsName(name); }
  bool AtOperator(std::string_view symbol) const { return current().IsOperator(symbol); }
  bool AtOneOf(std::initializer_list<std::string_view> operators) const;
  bool SkipName(std::string_view name);
  bool SkipOperator(std::string_view symbol);

  absl::Status ExpectName(std::string_view name);
  absl::Status ExpectOperator(std::string_view symbol);
  absl::Status ExpectType(TokenType type, std::string_view description);
  /// Any name; gives it.
  absl::StatusOr<std::string> ExpectIdentifier();

  /// "line N: ..." of the current token.
  template <typename... Args>
  absl::Status Error(fmt::format_string<Args...> format, Args&&... args) const {
    return InvalidArgument("line {}: {}", current().line,
                           fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  std::vector<Token> tokens_;
  size_t position_ = 0;
};

}  // namespace tandem::frontend::jinja
