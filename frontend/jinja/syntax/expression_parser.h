#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/status.h"
#include "frontend/jinja/syntax/ast.h"
#include "frontend/jinja/syntax/lexer.h"
#include "frontend/jinja/syntax/token_stream.h"

namespace tandem::frontend::jinja {

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
