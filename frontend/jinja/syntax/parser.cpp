#include "frontend/jinja/syntax/parser.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "frontend/jinja/syntax/expression_parser.h"
#include "frontend/jinja/syntax/lexer.h"

namespace tandem::frontend::jinja {
namespace {

using StatementPtr = std::unique_ptr<Statement>;
using StatementResult = absl::StatusOr<StatementPtr>;

class Parser : private ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  absl::StatusOr<Body> Run() {
    TANDEM_ASSIGN_OR_RETURN(Body body, ParseUntil({}));
    return body;
  }

 private:
  using Names = std::vector<std::string_view>;

  static StatementPtr Make(Statement::Kind kind, int line) {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    statement->line = line;
    return statement;
  }

  // Statements up to a tag with one of the names `ends`, whose name becomes the current token; up
  // to the end of the template if there are none.
  absl::StatusOr<Body> ParseUntil(const Names& ends) {
    TANDEM_RETURN_IF_ERROR(Enter());
    Body body;
    while (!stream_.AtType(TokenType::kEnd)) {
      const Token& token = stream_.Next();
      if (token.type == TokenType::kData) {
        StatementPtr text = Make(Statement::Kind::kText, token.line);
        text->text = token.text;
        body.push_back(std::move(text));
      } else if (token.type == TokenType::kVariableBegin) {
        StatementPtr print = Make(Statement::Kind::kPrint, token.line);
        TANDEM_ASSIGN_OR_RETURN(ExpressionPtr value, ParseTuple());
        print->expressions.push_back(std::move(value));
        TANDEM_RETURN_IF_ERROR(
            stream_.ExpectType(TokenType::kVariableEnd, "end of print statement"));
        body.push_back(std::move(print));
      } else {
        if (stream_.AtType(TokenType::kName) &&
            std::find(ends.begin(), ends.end(), stream_.current().text) != ends.end()) {
          Leave();
          return body;
        }
        TANDEM_ASSIGN_OR_RETURN(StatementPtr statement, ParseStatement());
        TANDEM_RETURN_IF_ERROR(ExpectBlockEnd());
        body.push_back(std::move(statement));
      }
    }
    Leave();
    if (!ends.empty()) return stream_.Error("the template ends, but '{}' is missing", ends.back());
    return body;
  }

  absl::Status ExpectBlockEnd() {
    return stream_.ExpectType(TokenType::kBlockEnd, "end of statement block");
  }

  // The rest of the opening tag, then statements, up to a tag in `ends`.
  absl::StatusOr<Body> ParseBody(const Names& ends) {
    stream_.SkipOperator(":");
    TANDEM_RETURN_IF_ERROR(ExpectBlockEnd());
    return ParseUntil(ends);
  }

  // The same up to the one tag `end`, whose name is skipped.
  absl::StatusOr<Body> ParseWholeBody(std::string_view end) {
    TANDEM_ASSIGN_OR_RETURN(Body body, ParseBody({end}));
    stream_.Next();
    return body;
  }

  StatementResult ParseStatement() {
    if (!stream_.AtType(TokenType::kName)) {
      return stream_.Error("expected the name of a tag, found {}", Describe(stream_.current()));
    }
    using Rule = StatementResult (Parser::*)(int line);
    constexpr std::pair<std::string_view, Rule> kRules[] = {
        {"if", &Parser::ParseIf},          {"for", &Parser::ParseFor},
        {"set", &Parser::ParseSet},        {"macro", &Parser::ParseMacro},
        {"call", &Parser::ParseCallBlock}, {"filter", &Parser::ParseFilterBlock},
        {"with", &Parser::ParseWith},      {"print", &Parser::ParsePrint},
        {"block", &Parser::ParseBlock},    {"generation", &Parser::ParseGeneration},
        {"break", &Parser::ParseBreak},    {"continue", &Parser::ParseContinue},
    };
    const std::string& name = stream_.current().text;
    for (const auto& [tag, rule] : kRules) {
      if (name == tag) {
        const int line = stream_.Next().line;
        return (this->*rule)(line);
      }
    }
    for (const std::string_view loader : {"extends", "include", "import", "from", "autoescape"}) {
      if (name == loader) {
        return stream_.Error("the tag '{}' is not supported in chat templates", name);
      }
    }
    return stream_.Error("unknown tag '{}'", name);
  }

  StatementResult ParseIf(int line) {
    StatementPtr statement = Make(Statement::Kind::kIf, line);
    bool more = true;
    while (more) {
      Statement::Branch branch;
      TANDEM_ASSIGN_OR_RETURN(branch.condition, ParseTuple(/*with_conditional=*/false));
      TANDEM_ASSIGN_OR_RETURN(branch.body, ParseBody({"elif", "else", "endif"}));
      statement->branches.push_back(std::move(branch));
      const std::string& end = stream_.Next().text;
      more = end == "elif";
      if (end == "else") {
        Statement::Branch otherwise;
        TANDEM_ASSIGN_OR_RETURN(otherwise.body, ParseWholeBody("endif"));
        statement->branches.push_back(std::move(otherwise));
      }
    }
    return statement;
  }

  StatementResult ParseFor(int line) {
    StatementPtr statement = Make(Statement::Kind::kFor, line);
    TANDEM_ASSIGN_OR_RETURN(ExpressionPtr target, ParseTarget(false, TupleEnd::kIn));
    statement->targets.push_back(std::move(target));
    TANDEM_RETURN_IF_ERROR(stream_.ExpectName("in"));
    TANDEM_ASSIGN_OR_RETURN(statement->iterable, ParseTuple(false, TupleEnd::kRecursive));
    if (stream_.SkipName("if")) {
      TANDEM_ASSIGN_OR_RETURN(statement->filter, ParseExpression());
    }
    statement->recursive = stream_.SkipName("recursive");
    ++open_loops_;
    TANDEM_ASSIGN_OR_RETURN(statement->body, ParseBody({"else", "endfor"}));
    --open_loops_;
    if (stream_.Next().text == "else") {
      TANDEM_ASSIGN_OR_RETURN(statement->otherwise, ParseWholeBody("endfor"));
    }
    return statement;
  }

  StatementResult ParseSet(int line) {
    StatementPtr statement = Make(Statement::Kind::kSet, line);
    TANDEM_ASSIGN_OR_RETURN(ExpressionPtr target, ParseTarget(true, TupleEnd::kTag));
    statement->targets.push_back(std::move(target));
    if (stream_.SkipOperator("=")) {
      TANDEM_ASSIGN_OR_RETURN(ExpressionPtr value, ParseTuple());
      statement->expressions.push_back(std::move(value));
      return statement;
    }
    statement->kind = Statement::Kind::kSetBlock;
    TANDEM_ASSIGN_OR_RETURN(statement->filter, ParseFilters(nullptr, false));
    TANDEM_ASSIGN_OR_RETURN(statement->body, ParseWholeBody("endset"));
    return statement;
  }

  absl::Status ParseSignature(MacroDefinition& macro) {
    TANDEM_RETURN_IF_ERROR(stream_.ExpectOperator("("));
    while (!stream_.AtOperator(")")) {
      if (!macro.parameters.empty()) {
        TANDEM_RETURN_IF_ERROR(stream_.ExpectOperator(","));
      }
      MacroParameter parameter;
      TANDEM_ASSIGN_OR_RETURN(parameter.name, stream_.ExpectIdentifier());
      if (stream_.SkipOperator("=")) {
        TANDEM_ASSIGN_OR_RETURN(parameter.default_value, ParseExpression());
      } else if (!macro.parameters.empty() && macro.parameters.back().default_value) {
        return stream_.Error("the parameter '{}' needs a default, as the one before has one",
                             parameter.name);
      }
      macro.parameters.push_back(std::move(parameter));
    }
    return stream_.ExpectOperator(")");
  }

  // The body is a function of its own: loops around it cannot be left from inside.
  absl::Status ParseMacroBody(MacroDefinition& macro, std::string_view end) {
    open_macros_.push_back(&macro);
    const int outer_loops = std::exchange(open_loops_, 0);
    TANDEM_ASSIGN_OR_RETURN(macro.body, ParseWholeBody(end));
    open_loops_ = outer_loops;
    open_macros_.pop_back();
    for (const MacroParameter& parameter : macro.parameters) {
      if (macro.uses_caller && parameter.name == "caller" && !parameter.default_value) {
        return stream_.Error("the parameter 'caller' of macro '{}' needs a default", macro.name);
      }
    }
    return absl::OkStatus();
  }

  StatementResult ParseMacro(int line) {
    StatementPtr statement = Make(Statement::Kind::kMacro, line);
    statement->macro = std::make_unique<MacroDefinition>();
    TANDEM_ASSIGN_OR_RETURN(statement->macro->name, stream_.ExpectIdentifier());
    TANDEM_RETURN_IF_ERROR(ParseSignature(*statement->macro));
    TANDEM_RETURN_IF_ERROR(ParseMacroBody(*statement->macro, "endmacro"));
    return statement;
  }

  StatementResult ParseCallBlock(int line) {
    StatementPtr statement = Make(Statement::Kind::kCall, line);
    statement->macro = std::make_unique<MacroDefinition>();
    statement->macro->name = "caller";
    if (stream_.AtOperator("(")) {
      TANDEM_RETURN_IF_ERROR(ParseSignature(*statement->macro));
    }
    TANDEM_ASSIGN_OR_RETURN(ExpressionPtr call, ParseExpression());
    if (call->kind != Expression::Kind::kCall) {
      return stream_.Error("expected a call in the tag 'call'");
    }
    statement->expressions.push_back(std::move(call));
    TANDEM_RETURN_IF_ERROR(ParseMacroBody(*statement->macro, "endcall"));
    return statement;
  }

  StatementResult ParseFilterBlock(int line) {
    StatementPtr statement = Make(Statement::Kind::kFilter, line);
    TANDEM_ASSIGN_OR_RETURN(statement->filter, ParseFilters(nullptr, /*start_inline=*/true));
    TANDEM_ASSIGN_OR_RETURN(statement->body, ParseWholeBody("endfilter"));
    return statement;
  }

  StatementResult ParseWith(int line) {
    StatementPtr statement = Make(Statement::Kind::kWith, line);
    while (!stream_.AtType(TokenType::kBlockEnd)) {
      if (!statement->targets.empty()) {
        TANDEM_RETURN_IF_ERROR(stream_.ExpectOperator(","));
      }
      TANDEM_ASSIGN_OR_RETURN(ExpressionPtr target, ParseTarget(false, TupleEnd::kTag));
      statement->targets.push_back(std::move(target));
      TANDEM_RETURN_IF_ERROR(stream_.ExpectOperator("="));
      TANDEM_ASSIGN_OR_RETURN(ExpressionPtr value, ParseExpression());
      statement->expressions.push_back(std::move(value));
    }
    TANDEM_ASSIGN_OR_RETURN(statement->body, ParseWholeBody("endwith"));
    return statement;
  }

  StatementResult ParsePrint(int line) {
    StatementPtr statement = Make(Statement::Kind::kPrint, line);
    while (!stream_.AtType(TokenType::kBlockEnd)) {
      if (!statement->expressions.empty()) {
        TANDEM_RETURN_IF_ERROR(stream_.ExpectOperator(","));
      }
      TANDEM_ASSIGN_OR_RETURN(ExpressionPtr value, ParseExpression());
      statement->expressions.push_back(std::move(value));
    }
    return statement;
  }

  StatementResult ParseBlock(int line) {
    StatementPtr statement = Make(Statement::Kind::kBlock, line);
    TANDEM_ASSIGN_OR_RETURN(const std::string name, stream_.ExpectIdentifier());
    const bool scoped = stream_.SkipName("scoped");
    stream_.SkipName("required");
    statement->kind = scoped ? Statement::Kind::kScope : Statement::Kind::kBlock;
    const int outer_loops = std::exchange(open_loops_, 0);
    TANDEM_ASSIGN_OR_RETURN(statement->body, ParseWholeBody("endblock"));
    open_loops_ = outer_loops;
    stream_.SkipName(name);
    return statement;
  }

  StatementResult ParseGeneration(int line) {
    StatementPtr statement = Make(Statement::Kind::kScope, line);
    const int outer_loops = std::exchange(open_loops_, 0);
    TANDEM_ASSIGN_OR_RETURN(statement->body, ParseWholeBody("endgeneration"));
    open_loops_ = outer_loops;
    return statement;
  }

  StatementResult ParseBreak(int line) { return ParseLoopControl(Statement::Kind::kBreak, line); }
  StatementResult ParseContinue(int line) {
    return ParseLoopControl(Statement::Kind::kContinue, line);
  }
  StatementResult ParseLoopControl(Statement::Kind kind, int line) {
    if (open_loops_ == 0) {
      return InvalidArgument("line {}: 'break' or 'continue' stands outside of a loop", line);
    }
    return Make(kind, line);
  }

  int open_loops_ = 0;
};

}  // namespace

absl::StatusOr<Body> Parse(std::string_view source) {
  TANDEM_ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace tandem::frontend::jinja
