#include "frontend/jinja_expression_parser.h"

#include <algorithm>

namespace tandem::frontend::jinja {
namespace {

// Of blocks and brackets in one another, and of any one expression's tree.
constexpr int kMaxNesting = 150;
constexpr int kMaxExpressionDepth = 250;

void AddDepth(int& depth, const ExpressionPtr& child) {
  if (child) {
    depth = std::max(depth, child->depth + 1);
  }
}

bool IsOneOf(const Token& token, std::initializer_list<std::string_view> operators) {
  return token.type == TokenType::kOperator &&
         std::find(operators.begin(), operators.end(), token.text) != operators.end();
}

}  // namespace

const Token& TokenStream::Next() {
  const Token& token = tokens_[position_];
  position_ = std::min(position_ + 1, tokens_.size() - 1);
  return token;
}

bool TokenStream::SkipName(std::string_view name) {
  const bool here = AtName(name);
  if (here) {
    Next();
  }
  return here;
}

bool TokenStream::SkipOperator(std::string_view symbol) {
  const bool here = AtOperator(symbol);
  if (here) {
    Next();
  }
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
  if (!AtType(type)) {
    return Error("expected {}, found {}", description, Describe(current()));
  }
  Next();
  return absl::OkStatus();
}

absl::StatusOr<std::string> TokenStream::ExpectIdentifier() {
  if (!AtType(TokenType::kName)) {
    return Error("expected a name, found {}", Describe(current()));
  }
  return Next().text;
}

ExpressionPtr ExpressionParser::Make(Kind kind, int line) {
  auto node = std::make_unique<Expression>();
  node->kind = kind;
  node->line = line;
  return node;
}

ExpressionParser::Result ExpressionParser::Finish(ExpressionPtr node) const {
  for (const ExpressionPtr& operand : node->operands) {
    AddDepth(node->depth, operand);
  }
  for (const ExpressionPtr& argument : node->arguments.positional) {
    AddDepth(node->depth, argument);
  }
  for (const auto& [name, argument] : node->arguments.named) {
    AddDepth(node->depth, argument);
  }
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
  if (!stream_.AtName("not")) {
    return ParseCompare();
  }
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
    if (IsOneOf(stream_.current(), {"==", "!=", "<", "<=", ">", ">="})) {
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
    if (node->operands.empty()) {
      node->operands.push_back(std::move(first));
    }
    node->operands.push_back(std::move(operand));
  }
  return node->operators.empty() ? Result(std::move(first)) : Finish(std::move(node));
}

ExpressionParser::Result ExpressionParser::ParseSum() {
  TANDEM_ASSIGN_OR_RETURN(ExpressionPtr left, ParseConcat());
  while (IsOneOf(stream_.current(), {"+", "-"})) {
    const Token& symbol = stream_.Next();
    TANDEM_ASSIGN_OR_RETURN(ExpressionPtr right, ParseConcat());
    TANDEM_ASSIGN_OR_RETURN(left, MakeBinary(Kind::kBinary, symbol.text, std::move(left),
                                             std::move(right), symbol.line));
  }
  return left;
}

ExpressionParser::Result ExpressionParser::ParseConcat() {
  TANDEM_ASSIGN_OR_RETURN(ExpressionPtr first, ParseProduct());
  if (!stream_.AtOperator("~")) {
    return first;
  }
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
  while (IsOneOf(stream_.current(), {"*", "/", "//", "%"})) {
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
  if (IsOneOf(stream_.current(), {"-", "+"})) {
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

ExpressionParser::Result ExpressionParser::ParsePrimary(bool with_namespace) {
  const Token& token = stream_.current();
  ExpressionPtr node = Make(Kind::kLiteral, token.line);
  switch (token.type) {
    case TokenType::kName:
      return ParseName(with_namespace);
    case TokenType::kString: {
      std::string value;
      while (stream_.AtType(TokenType::kString)) {
        value += stream_.Next().text;
      }
      node->literal = std::move(value);
      return node;
    }
    case TokenType::kInteger:
      node->literal = stream_.Next().integer;
      return node;
    case TokenType::kFloat:
      node->literal = stream_.Next().number;
      return node;
    default:
      break;
  }
  if (stream_.AtOperator("[")) {
    return ParseList();
  }
  if (stream_.AtOperator("{")) {
    return ParseDict();
  }
  if (stream_.SkipOperator("(")) {
    TANDEM_ASSIGN_OR_RETURN(node, ParseTuple(true, TupleEnd::kTag, /*parenthesized=*/true));
    TANDEM_RETURN_IF_ERROR(stream_.ExpectOperator(")"));
    return node;
  }
  return stream_.Error("expected an expression, found {}", Describe(token));
}

ExpressionParser::Result ExpressionParser::ParseName(bool with_namespace) {
  const Token& token = stream_.Next();
  ExpressionPtr node = Make(Kind::kLiteral, token.line);
  if (token.text == "true" || token.text == "True") {
    node->literal = true;
  } else if (token.text == "false" || token.text == "False") {
    node->literal = false;
  } else if (token.text == "none" || token.text == "None") {
    node->literal = std::monostate{};
  } else if (with_namespace && stream_.SkipOperator(".")) {
    node->kind = Kind::kNamespaceField;
    node->name = token.text;
    TANDEM_ASSIGN_OR_RETURN(node->field, stream_.ExpectIdentifier());
  } else {
    node->kind = Kind::kName;
    node->name = token.text;
    for (MacroDefinition* macro : open_macros_) {
      macro->uses_caller |= token.text == "caller";
      macro->uses_kwargs |= token.text == "kwargs";
      macro->uses_varargs |= token.text == "varargs";
    }
  }
  return node;
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
    if (!stream_.SkipOperator(",")) {
      break;
    }
    has_comma = true;
  }
  if (has_comma || (parenthesized && tuple->operands.empty())) {
    return Finish(std::move(tuple));
  }
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
    if (!stream_.SkipOperator(",")) {
      break;
    }
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

ExpressionParser::Result ExpressionParser::ParseList() {
  ExpressionPtr node = Make(Kind::kList, stream_.Next().line);
  while (!stream_.AtOperator("]")) {
    TANDEM_ASSIGN_OR_RETURN(ExpressionPtr member, ParseExpression());
    node->operands.push_back(std::move(member));
    if (!stream_.SkipOperator(",")) {
      break;
    }
  }
  TANDEM_RETURN_IF_ERROR(stream_.ExpectOperator("]"));
  return Finish(std::move(node));
}

ExpressionParser::Result ExpressionParser::ParseDict() {
  ExpressionPtr node = Make(Kind::kDict, stream_.Next().line);
  while (!stream_.AtOperator("}")) {
    TANDEM_ASSIGN_OR_RETURN(ExpressionPtr key, ParseExpression());
    TANDEM_RETURN_IF_ERROR(stream_.ExpectOperator(":"));
    TANDEM_ASSIGN_OR_RETURN(ExpressionPtr value, ParseExpression());
    node->operands.push_back(std::move(key));
    node->operands.push_back(std::move(value));
    if (!stream_.SkipOperator(",")) {
      break;
    }
  }
  TANDEM_RETURN_IF_ERROR(stream_.ExpectOperator("}"));
  return Finish(std::move(node));
}

ExpressionParser::Result ExpressionParser::ParsePostfix(ExpressionPtr node) {
  while (true) {
    if (stream_.AtOperator(".")) {
      TANDEM_ASSIGN_OR_RETURN(node, ParseAttribute(std::move(node)));
    } else if (stream_.AtOperator("[")) {
      TANDEM_ASSIGN_OR_RETURN(node, ParseSubscript(std::move(node)));
    } else if (stream_.AtOperator("(")) {
      TANDEM_ASSIGN_OR_RETURN(node, ParseCall(std::move(node)));
    } else {
      return node;
    }
  }
}

ExpressionParser::Result ExpressionParser::ParseFilterExpression(ExpressionPtr node) {
  while (true) {
    if (stream_.AtOperator("|")) {
      TANDEM_ASSIGN_OR_RETURN(node, ParseFilters(std::move(node), false));
    } else if (stream_.AtName("is")) {
      TANDEM_ASSIGN_OR_RETURN(node, ParseTest(std::move(node)));
    } else if (stream_.AtOperator("(")) {
      TANDEM_ASSIGN_OR_RETURN(node, ParseCall(std::move(node)));
    } else {
      return node;
    }
  }
}

ExpressionParser::Result ExpressionParser::ParseAttribute(ExpressionPtr object) {
  const int line = stream_.Next().line;
  if (stream_.AtType(TokenType::kInteger)) {
    ExpressionPtr index = Make(Kind::kLiteral, line);
    index->literal = stream_.Next().integer;
    return MakeBinary(Kind::kItem, "", std::move(object), std::move(index), line);
  }
  ExpressionPtr node = Make(Kind::kAttribute, line);
  TANDEM_ASSIGN_OR_RETURN(node->name, stream_.ExpectIdentifier());
  node->operands.push_back(std::move(object));
  return Finish(std::move(node));
}

ExpressionParser::Result ExpressionParser::ParseSubscript(ExpressionPtr object) {
  const int line = stream_.Next().line;
  ExpressionPtr slice = Make(Kind::kSlice, line);
  slice->operands.push_back(std::move(object));
  ExpressionPtr first;
  if (!stream_.AtOperator(":")) {
    TANDEM_ASSIGN_OR_RETURN(first, ParseExpression());
  }
  if (!stream_.AtOperator(":")) {
    ExpressionPtr index = std::move(first);
    if (stream_.AtOperator(",")) {
      ExpressionPtr tuple = Make(Kind::kTuple, line);
      tuple->operands.push_back(std::move(index));
      while (stream_.SkipOperator(",")) {
        TANDEM_ASSIGN_OR_RETURN(ExpressionPtr member, ParseExpression());
        tuple->operands.push_back(std::move(member));
      }
      TANDEM_ASSIGN_OR_RETURN(index, Finish(std::move(tuple)));
    }
    TANDEM_RETURN_IF_ERROR(stream_.ExpectOperator("]"));
    return MakeBinary(Kind::kItem, "", std::move(slice->operands.front()), std::move(index), line);
  }
  slice->operands.push_back(std::move(first));
  for (int part = 0; part < 2; ++part) {
    ExpressionPtr bound;
    if (stream_.SkipOperator(":") && !stream_.AtOperator(":") && !stream_.AtOperator("]")) {
      TANDEM_ASSIGN_OR_RETURN(bound, ParseExpression());
    }
    slice->operands.push_back(std::move(bound));
  }
  TANDEM_RETURN_IF_ERROR(stream_.ExpectOperator("]"));
  return Finish(std::move(slice));
}

ExpressionParser::Result ExpressionParser::ParseCall(ExpressionPtr callee) {
  ExpressionPtr node = Make(Kind::kCall, stream_.current().line);
  node->operands.push_back(std::move(callee));
  TANDEM_ASSIGN_OR_RETURN(node->arguments, ParseArguments());
  return Finish(std::move(node));
}

absl::StatusOr<CallArguments> ExpressionParser::ParseArguments() {
  TANDEM_RETURN_IF_ERROR(stream_.ExpectOperator("("));
  CallArguments arguments;
  while (!stream_.AtOperator(")")) {
    TANDEM_RETURN_IF_ERROR(ParseArgument(arguments));
    if (!stream_.SkipOperator(",")) {
      break;
    }
  }
  TANDEM_RETURN_IF_ERROR(stream_.ExpectOperator(")"));
  return arguments;
}

absl::Status ExpressionParser::ParseArgument(CallArguments& arguments) {
  const auto misplaced = [&] {
    return stream_.Error("this argument cannot follow the one before");
  };
  if (stream_.SkipOperator("**")) {
    if (arguments.unpacked_named) {
      return misplaced();
    }
    TANDEM_ASSIGN_OR_RETURN(arguments.unpacked_named, ParseExpression());
    return absl::OkStatus();
  }
  if (arguments.unpacked_named) {
    return misplaced();
  }
  if (stream_.SkipOperator("*")) {
    if (arguments.unpacked) {
      return misplaced();
    }
    TANDEM_ASSIGN_OR_RETURN(arguments.unpacked, ParseExpression());
    return absl::OkStatus();
  }
  if (stream_.AtType(TokenType::kName) && stream_.ahead().IsOperator("=")) {
    const std::string name = stream_.Next().text;
    stream_.Next();
    for (const auto& [earlier, value] : arguments.named) {
      if (earlier == name) {
        return stream_.Error("the argument '{}' is given twice", name);
      }
    }
    TANDEM_ASSIGN_OR_RETURN(ExpressionPtr value, ParseExpression());
    arguments.named.emplace_back(name, std::move(value));
    return absl::OkStatus();
  }
  if (arguments.unpacked || !arguments.named.empty()) {
    return misplaced();
  }
  TANDEM_ASSIGN_OR_RETURN(ExpressionPtr value, ParseExpression());
  arguments.positional.push_back(std::move(value));
  return absl::OkStatus();
}

absl::StatusOr<std::string> ExpressionParser::ParseDottedName() {
  TANDEM_ASSIGN_OR_RETURN(std::string name, stream_.ExpectIdentifier());
  while (stream_.SkipOperator(".")) {
    TANDEM_ASSIGN_OR_RETURN(const std::string part, stream_.ExpectIdentifier());
    name += "." + part;
  }
  return name;
}

ExpressionParser::Result ExpressionParser::ParseFilters(ExpressionPtr subject, bool start_inline) {
  while (start_inline || stream_.SkipOperator("|")) {
    start_inline = false;
    ExpressionPtr node = Make(Kind::kFilter, stream_.current().line);
    TANDEM_ASSIGN_OR_RETURN(node->name, ParseDottedName());
    node->operands.push_back(std::move(subject));
    if (stream_.AtOperator("(")) {
      TANDEM_ASSIGN_OR_RETURN(node->arguments, ParseArguments());
    }
    TANDEM_ASSIGN_OR_RETURN(subject, Finish(std::move(node)));
  }
  return subject;
}

ExpressionParser::Result ExpressionParser::ParseTest(ExpressionPtr subject) {
  ExpressionPtr node = Make(Kind::kTest, stream_.Next().line);
  const bool negated = stream_.SkipName("not");
  TANDEM_ASSIGN_OR_RETURN(node->name, ParseDottedName());
  node->operands.push_back(std::move(subject));
  const Token& token = stream_.current();
  const bool connective = token.IsName("else") || token.IsName("or") || token.IsName("and");
  if (stream_.AtOperator("(")) {
    TANDEM_ASSIGN_OR_RETURN(node->arguments, ParseArguments());
  } else if (!connective && (token.type == TokenType::kName || token.type == TokenType::kString ||
                             token.type == TokenType::kInteger || token.type == TokenType::kFloat ||
                             IsOneOf(token, {"[", "{"}))) {
    if (token.IsName("is")) {
      return stream_.Error("tests cannot be chained with 'is'");
    }
    TANDEM_ASSIGN_OR_RETURN(ExpressionPtr argument, ParsePrimary());
    TANDEM_ASSIGN_OR_RETURN(argument, ParsePostfix(std::move(argument)));
    node->arguments.positional.push_back(std::move(argument));
  }
  const int line = node->line;
  TANDEM_ASSIGN_OR_RETURN(node, Finish(std::move(node)));
  if (!negated) {
    return node;
  }
  ExpressionPtr negation = Make(Kind::kUnary, line);
  negation->name = "not";
  negation->operands.push_back(std::move(node));
  return Finish(std::move(negation));
}

}  // namespace tandem::frontend::jinja
