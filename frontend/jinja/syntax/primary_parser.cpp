#include <utility>

#include "frontend/jinja/syntax/expression_parser.h"

// Names, literals, brackets, and what may follow them: attributes, calls, filters, tests.
namespace tandem::frontend::jinja {

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
  if (stream_.AtOperator("[")) return ParseList();
  if (stream_.AtOperator("{")) return ParseDict();
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

ExpressionParser::Result ExpressionParser::ParseList() {
  ExpressionPtr node = Make(Kind::kList, stream_.Next().line);
  while (!stream_.AtOperator("]")) {
    TANDEM_ASSIGN_OR_RETURN(ExpressionPtr member, ParseExpression());
    node->operands.push_back(std::move(member));
    if (!stream_.SkipOperator(",")) break;
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
    if (!stream_.SkipOperator(",")) break;
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
    if (!stream_.SkipOperator(",")) break;
  }
  TANDEM_RETURN_IF_ERROR(stream_.ExpectOperator(")"));
  return arguments;
}

absl::Status ExpressionParser::ParseArgument(CallArguments& arguments) {
  const auto misplaced = [&] {
    return stream_.Error("this argument cannot follow the one before");
  };
  if (stream_.SkipOperator("**")) {
    if (arguments.unpacked_named) return misplaced();
    TANDEM_ASSIGN_OR_RETURN(arguments.unpacked_named, ParseExpression());
    return absl::OkStatus();
  }
  if (arguments.unpacked_named) return misplaced();
  if (stream_.SkipOperator("*")) {
    if (arguments.unpacked) return misplaced();
    TANDEM_ASSIGN_OR_RETURN(arguments.unpacked, ParseExpression());
    return absl::OkStatus();
  }
  if (stream_.AtType(TokenType::kName) && stream_.ahead().IsOperator("=")) {
    const std::string name = stream_.Next().text;
    stream_.Next();
    for (const auto& [earlier, value] : arguments.named) {
      if (earlier == name) return stream_.Error("the argument '{}' is given twice", name);
    }
    TANDEM_ASSIGN_OR_RETURN(ExpressionPtr value, ParseExpression());
    arguments.named.emplace_back(name, std::move(value));
    return absl::OkStatus();
  }
  if (arguments.unpacked || !arguments.named.empty()) return misplaced();
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
                             stream_.AtOneOf({"[", "{"}))) {
    if (token.IsName("is")) return stream_.Error("tests cannot be chained with 'is'");
    TANDEM_ASSIGN_OR_RETURN(ExpressionPtr argument, ParsePrimary());
    TANDEM_ASSIGN_OR_RETURN(argument, ParsePostfix(std::move(argument)));
    node->arguments.positional.push_back(std::move(argument));
  }
  const int line = node->line;
  TANDEM_ASSIGN_OR_RETURN(node, Finish(std::move(node)));
  if (!negated) return node;
  ExpressionPtr negation = Make(Kind::kUnary, line);
  negation->name = "not";
  negation->operands.push_back(std::move(node));
  return Finish(std::move(negation));
}

}  // namespace tandem::frontend::jinja
