#include "frontend/jinja/check.h"

#include "frontend/jinja/builtins/builtins.h"

namespace tandem::frontend::jinja {
namespace {

// `lenient` is true where jinja2 puts off the complaint until the name is used.
absl::Status CheckExpression(const ExpressionPtr& expression, bool lenient);

absl::Status CheckAll(const std::vector<ExpressionPtr>& expressions, bool lenient) {
  for (const ExpressionPtr& expression : expressions) {
    TANDEM_RETURN_IF_ERROR(CheckExpression(expression, lenient));
  }
  return absl::OkStatus();
}

absl::Status CheckExpression(const ExpressionPtr& expression, bool lenient) {
  if (!expression) return absl::OkStatus();
  lenient = lenient || expression->kind == Expression::Kind::kConditional;
  if (!lenient && expression->kind == Expression::Kind::kFilter &&
      FindFilter(expression->name) == nullptr) {
    return InvalidArgument("line {}: there is no filter named '{}'", expression->line,
                           expression->name);
  }
  if (!lenient && expression->kind == Expression::Kind::kTest &&
      FindTest(expression->name) == nullptr) {
    return InvalidArgument("line {}: there is no test named '{}'", expression->line,
                           expression->name);
  }
  TANDEM_RETURN_IF_ERROR(CheckAll(expression->operands, lenient));
  TANDEM_RETURN_IF_ERROR(CheckAll(expression->arguments.positional, lenient));
  for (const auto& [name, argument] : expression->arguments.named) {
    TANDEM_RETURN_IF_ERROR(CheckExpression(argument, lenient));
  }
  TANDEM_RETURN_IF_ERROR(CheckExpression(expression->arguments.unpacked, lenient));
  return CheckExpression(expression->arguments.unpacked_named, lenient);
}

absl::Status CheckBody(const Body& body, bool lenient) {
  for (const auto& statement : body) {
    // Only the branches of "if" are lenient; every other block starts anew.
    TANDEM_RETURN_IF_ERROR(CheckAll(statement->expressions, lenient));
    TANDEM_RETURN_IF_ERROR(CheckExpression(statement->iterable, lenient));
    TANDEM_RETURN_IF_ERROR(CheckExpression(statement->filter, false));
    for (const Statement::Branch& branch : statement->branches) {
      TANDEM_RETURN_IF_ERROR(CheckExpression(branch.condition, true));
      TANDEM_RETURN_IF_ERROR(CheckBody(branch.body, true));
    }
    TANDEM_RETURN_IF_ERROR(CheckBody(statement->body, false));
    TANDEM_RETURN_IF_ERROR(CheckBody(statement->otherwise, false));
    if (statement->macro) {
      for (const MacroParameter& parameter : statement->macro->parameters) {
        TANDEM_RETURN_IF_ERROR(CheckExpression(parameter.default_value, false));
      }
      TANDEM_RETURN_IF_ERROR(CheckBody(statement->macro->body, false));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckNames(const Body& body) { return CheckBody(body, false); }

}  // namespace tandem::frontend::jinja
