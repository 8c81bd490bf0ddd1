#include "frontend/jinja/syntax/expression_parser.h"

#include <algorithm>

namespace tandem::frontend::jinja {
namespace {

// Of blocks and brackets in one another, and of any one expression's tree.
constexpr int kMaxNesting = 150;
constexpr int kMaxExpressionDepth = 250;

void AddDepth(int& depth, const ExpressionPtr& child) {
  if (child) depth = std::max(depth, child->depth + 1);
}

}  // namespace

ExpressionPtr ExpressionParser::Make(Kind kind, int line) {
  auto node = std::make_unique<Expression>();
  node->kind = kind;
  node->line = line;
  return node;
}

ExpressionParser::Result ExpressionParser::Finish(ExpressionPtr node) const {
  for (const ExpressionPtr& operand : node->operands) AddDepth(node->depth, operand);
  for (const ExpressionPtr& argument : node->arguments.positional) AddDepth(node->depth, argument);
  for (const auto& [name, argument] : node->arguments.named) AddDepth(node->depth, argument);
  AddDepth(node->depth, node->arguments.unpacked);
  AddDepth(node->depth, node->arguments.unpacked_named);
  if (node->depth > kMaxExpressionDepth) {
    return stream_.Error("an expression is nested deeper than {}", kMaxExpressionDepth);
  }
  return node;
}

ExpressionParser::Result ExpressionParser::MakeBinary(Kind kind, std::string name,
                                                      ExpressionPtr left, ExpressionPtr right,
                                                      int line) {
  ExpressionPtr node = Make(kind, line);
  node->name = std::move(name);
  node->operands.push_back(std::move(left));
  node->operands.push_back(std::move(right));
  return Finish(std::move(node));
}

absl::Status ExpressionParser::Enter() {
  if (++nesting_ > kMaxNesting) {
    return stream_.Error("blocks and brackets are nested deeper than {}", kMaxNesting);
  }
  return absl::OkStatus();
}

ExpressionParser::Result ExpressionParser::ParseConditional() {
  TANDEM_RETURN_IF_ERROR(Enter());
  int line = stream_.current().line;
  TANDEM_ASSIGN_OR_RETURN(ExpressionPtr value, ParseOr());
  while (stream_.SkipName("if")) {
    ExpressionPtr node = Make(Kind::kConditional, line);
    TANDEM_ASSIGN_OR_RETURN(ExpressionPtr condition, ParseOr());
    ExpressionPtr otherwise;
    if (stream_.SkipName("else")) {
      TANDEM_ASSIGN_OR_RETURN(otherwise, ParseConditional());
    }
    node->operands.push_back(std::move(value));
    node->operands.push_back(std::move(condition));
    node->operands.push_back(std::move(otherwise));
    TANDEM_ASSIGN_OR_RETURN(value, Finish(std::move(node)));
    line = stream_.current().line;
  }
  Leave();
  return value;
}

ExpressionParser::Result ExpressionParser::ParseOr() {
  TANDEM_ASSIGN_OR_RETURN(ExpressionPtr left, ParseAnd());
  while (stream_.AtName("or")) {
    const int line = stream_.Next().line;
    TANDEM_ASSIGN_OR_RETURN(ExpressionPtr right, ParseAnd());
    TANDEM_ASSIGN_OR_RETURN(left,
                            MakeBinary(Kind::kOr, "or", std::move(left), std::move(right), line));
  }
  return left;
}

ExpressionParser::Result ExpressionParser::ParseAnd() {
  TANDEM_ASSIGN_OR_RETURN(ExpressionPtr left, ParseNot());
  while (stream_.AtName("and")) {
    const int line = stream_.Next().line;
    TANDEM_ASSIGN_OR_RETURN(ExpressionPtr right, ParseNot());
    TANDEM_ASSIGN_OR_RETURN(left,
                            MakeBinary(Kind::kAnd, "and", std::move(left), std::move(right), line));
  }
  return left;
}

ExpressionParser::Result ExpressionParser::ParseNot() {
  if (!stream_.AtName("not")) return ParseCompare();
  TANDEM_RETURN_IF_ERROR(Enter());
  ExpressionPtr node = Make(Kind::kUnary, stream_.Next().line);
  node->name = "not";
  TANDEM_ASSIGN_OR_RETURN(ExpressionPtr operand, ParseNot());
  node->operands.push_back(std::move(operand));
  Leave();
  return Finish(std::move(node));
}

ExpressionParser::Result ExpressionParser::ParseCompare() {
  const int line = stream_.current().line;
  TANDEM_ASSIGN_OR_RETURN(ExpressionPtr first, ParseSum());
  ExpressionPtr node = Make(Kind::kCompare, line);
  while (true) {
    if (stream_.AtOneOf({"==", "!=", "<", "<=", ">", ">="})) {
      node->operators.push_back(stream_.Next().text);
    } else if (stream_.SkipName("in")) {
      node->operators.emplace_back("in");
    } else if (stream_.AtName("not") && stream_.ahead().IsName("in")) {
      stream_.Next();
      stream_.Next();
      node->operators.emplace_back("not in");
    } else {
      break;
    }
    TANDEM_ASSIGN_OR_RETURN(ExpressionPtr operand, ParseSum());
    if (node->operands.empty()) node->operands.push_back(std::move(first));
    node->operands.push_back(std::move(operand));
  }
  return node->operators.empty() ? Result(std::move(first)) : Finish(std::move(node));
}

ExpressionParser::Result ExpressionParser::ParseSum() {
  TANDEM_ASSIGN_OR_RETURN(ExpressionPtr left, ParseConcat());
  while (stream_.AtOneOf({"+", "-"})) {
    const Token& symbol = stream_.Next();
    TANDEM_ASSIGN_OR_RETURN(ExpressionPtr right, ParseConcat());
    TANDEM_ASSIGN_OR_RETURN(left, MakeBinary(Kind::kBinary, symbol.text, std::move(left),
                                             std::move(right), symbol.line));
  }
  return left;
}

ExpressionParser::Result ExpressionParser::ParseConcat() {
  TANDEM_ASSIGN_OR_RETURN(ExpressionPtr first, ParseProduct());
  if (!stream_.AtOperator("~")) return first;
  ExpressionPtr node = Make(Kind::kConcat, stream_.current().line);
  node->operands.push_back(std::move(first));
  while (stream_.SkipOperator("~")) {
    TANDEM_ASSIGN_OR_RETURN(ExpressionPtr operand, ParseProduct());
    node->operands.push_back(std::move(operand));
  }
  return Finish(std::move(node));
}

ExpressionParser::Result ExpressionParser::ParseProduct() {
  TANDEM_ASSIGN_OR_RETURN(ExpressionPtr left, ParsePower());
  while (stream_.AtOneOf({"*", "/", "//", "%"})) {
    const Token& symbol = stream_.Next();
    TANDEM_ASSIGN_OR_RETURN(ExpressionPtr right, ParsePower());
    TANDEM_ASSIGN_OR_RETURN(left, MakeBinary(Kind::kBinary, symbol.text, std::move(left),
                                             std::move(right), symbol.line));
  }
  return left;
}

// Left-associative and tighter than the sign, as jinja2 has it (Python differs).
ExpressionParser::Result ExpressionParser::ParsePower() {
  TANDEM_ASSIGN_OR_RETURN(ExpressionPtr left, ParseUnary(true));
  while (stream_.AtOperator("**")) {
    const Token& symbol = stream_.Next();
    TANDEM_ASSIGN_OR_RETURN(ExpressionPtr right, ParseUnary(true));
    TANDEM_ASSIGN_OR_RETURN(left, MakeBinary(Kind::kBinary, symbol.text, std::move(left),
                                             std::move(right), symbol.line));
  }
  return left;
}

ExpressionParser::Result ExpressionParser::ParseUnary(bool with_filter) {
  ExpressionPtr node;
  if (stream_.AtOneOf({"-", "+"})) {
    TANDEM_RETURN_IF_ERROR(Enter());
    node = Make(Kind::kUnary, stream_.current().line);
    node->name = stream_.Next().text;
    TANDEM_ASSIGN_OR_RETURN(ExpressionPtr operand, ParseUnary(false));
    node->operands.push_back(std::move(operand));
    TANDEM_ASSIGN_OR_RETURN(node, Finish(std::move(node)));
    Leave();
  } else {
    TANDEM_ASSIGN_OR_RETURN(node, ParsePrimary());
  }
  TANDEM_ASSIGN_OR_RETURN(node, ParsePostfix(std::move(node)));
  return with_filter ? ParseFilterExpression(std::move(node)) : Result(std::move(node));
}

bool ExpressionParser::AtTupleEnd(TupleEnd end) const {
  return stream_.AtType(TokenType::kVariableEnd) || stream_.AtType(TokenType::kBlockEnd) ||
         stream_.AtOperator(")") || (end == TupleEnd::kIn && stream_.AtName("in")) ||
         (end == TupleEnd::kRecursive && stream_.AtName("recursive"));
}

ExpressionParser::Result ExpressionParser::ParseTuple(bool with_conditional, TupleEnd end,
                                                      bool parenthesized) {
  ExpressionPtr tuple = Make(Kind::kTuple, stream_.current().line);
  bool has_comma = false;
  while (!AtTupleEnd(end)) {
    TANDEM_ASSIGN_OR_RETURN(ExpressionPtr member,
                            with_conditional ? ParseConditional() : ParseOr());
    tuple->operands.push_back(std::move(member));
    if (!stream_.SkipOperator(",")) break;
    has_comma = true;
  }
  if (has_comma || (parenthesized && tuple->operands.empty())) return Finish(std::move(tuple));
  if (tuple->operands.empty()) {
    return stream_.Error("expected an expression, found {}", Describe(stream_.current()));
  }
  return std::move(tuple->operands.front());
}

ExpressionParser::Result ExpressionParser::ParseTarget(bool with_namespace, TupleEnd end) {
  ExpressionPtr tuple = Make(Kind::kTuple, stream_.current().line);
  bool has_comma = false;
  while (!AtTupleEnd(end)) {
    TANDEM_ASSIGN_OR_RETURN(ExpressionPtr member, ParsePrimary(with_namespace));
    tuple->operands.push_back(std::move(member));
    if (!stream_.SkipOperator(",")) break;
    has_comma = true;
  }
  if (tuple->operands.empty()) {
    return stream_.Error("expected a name, found {}", Describe(stream_.current()));
  }
  ExpressionPtr target = has_comma ? std::move(tuple) : std::move(tuple->operands.front());
  TANDEM_RETURN_IF_ERROR(CheckTarget(*target));
  return target;
}

absl::Status ExpressionParser::CheckTarget(const Expression& target) const {
  if (target.kind == Kind::kTuple) {
    for (const ExpressionPtr& member : target.operands) {
      TANDEM_RETURN_IF_ERROR(CheckTarget(*member));
    }
    return absl::OkStatus();
  }
  if (target.kind != Kind::kName && target.kind != Kind::kNamespaceField) {
    return stream_.Error("only names can be assigned to, found a constant or an expression");
  }
  return absl::OkStatus();
}

}  // namespace tandem::frontend::jinja
