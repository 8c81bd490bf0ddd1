#include "frontend/jinja/syntax/token_stream.h"

namespace tandem::frontend::jinja {

const Token& TokenStream::Next() {
  const Token& token = tokens_[position_];
  position_ = std::min(position_ + 1, tokens_.size() - 1);
  return token;
}

bool TokenStream::SkipName(std::string_view name) {
  const bool here = AtName(name);
  if (here) Next();
  return here;
}

bool TokenStream::SkipOperator(std::string_view symbol) {
  const bool here = AtOperator(symbol);
  if (here) Next();
  return here;
}

absl::Status TokenStream::ExpectName(std::string_view name) {
  return SkipName(name) ? absl::OkStatus()
                        : Error("expected '{}', found {}", name, Describe(current()));
}

absl::Status TokenStream::ExpectOperator(std::string_view symbol) {
  return SkipOperator(symbol) ? absl::OkStatus()
                              : Error("expected '{}', found {}", symbol, Describe(current()));
}

absl::Status TokenStream::ExpectType(TokenType type, std::string_view description) {
  if (!AtType(type)) return Error("expected {}, found {}", description, Describe(current()));
  Next();
  return absl::OkStatus();
}

absl::StatusOr<std::string> TokenStream::ExpectIdentifier() {
  if (!AtType(TokenType::kName)) return Error("expected a name, found {}", Describe(current()));
  return Next().text;
}

bool TokenStream::AtOneOf(std::initializer_list<std::string_view> operators) const {
  return AtType(TokenType::kOperator) &&
         std::find(operators.begin(), operators.end(), current().text) != operators.end();
}

}  // namespace tandem::frontend::jinja
