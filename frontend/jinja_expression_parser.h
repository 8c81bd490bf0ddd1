#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/status.h"
#include "frontend/jinja_ast.h"
#include "frontend/jinja_lexer.h"

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

/// Parses expressions with the precedence of jinja2.parser.
class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : stream_(std::move(tokens)) {}

 protected:
  using Kind = Expression::Kind;
  using Result = absl::StatusOr<ExpressionPtr>;

  /// Where a tuple without parentheses ends besides at the end of its tag.
  enum class TupleEnd { kTag, kIn, kRecursive };

  Result ParseExpression() { return ParseConditional(); }
  /// One expression, or several with commas between them as a tuple.
  Result ParseTuple(bool with_conditional = true, TupleEnd end = TupleEnd::kTag,
                    bool parenthesized = false);
  /// What may stand left of "=" and between "for" and "in".
  Result ParseTarget(bool with_namespace, TupleEnd end);
  /// "| filter | filter" after `subject`, which is null in blocks; the first "|" is left out there.
  Result ParseFilters(ExpressionPtr subject, bool start_inline);
  Result ParseOr();

  /// Counts nesting; fails when it is deeper than a template may be.
  absl::Status Enter();
  void Leave() { --nesting_; }

  TokenStream stream_;
  std::vector<MacroDefinition*> open_macros_;

 private:
  static ExpressionPtr Make(Kind kind, int line);
  Result Finish(ExpressionPtr node) const;
  Result MakeBinary(Kind kind, std::string name, ExpressionPtr left, ExpressionPtr right, int line);

  Result ParseConditional();
  Result ParseAnd();
  Result ParseNot();
  Result ParseCompare();
  Result ParseSum();
  Result ParseConcat();
  Result ParseProduct();
  Result ParsePower();
  Result ParseUnary(bool with_filter);
  Result ParsePrimary(bool with_namespace = false);
  Result ParseName(bool with_namespace);
  Result ParseList();
  Result ParseDict();
  Result ParsePostfix(ExpressionPtr node);
  Result ParseFilterExpression(ExpressionPtr node);
  Result ParseAttribute(ExpressionPtr node);
  Result ParseSubscript(ExpressionPtr node);
  Result ParseCall(ExpressionPtr node);
  Result ParseTest(ExpressionPtr node);
  absl::StatusOr<std::string> ParseDottedName();
  absl::StatusOr<CallArguments> ParseArguments();
  absl::Status ParseArgument(CallArguments& arguments);
  absl::Status CheckTarget(const Expression& target) const;
  bool AtTupleEnd(TupleEnd end) const;

  int nesting_ = 0;
};

}  // namespace tandem::frontend::jinja
