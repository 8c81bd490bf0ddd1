#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

/// The syntax tree of a template, immutable once parsed.
namespace tandem::frontend::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;
struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  ExpressionPtr unpacked;        // *expression, or null
  ExpressionPtr unpacked_named;  // **expression, or null
};

struct Expression {
  enum class Kind {
    kLiteral,        // literal
    kName,           // name
    kList,           // operands
    kTuple,          // operands
    kDict,           // operands: key, value, key, value...
    kAttribute,      // operands[0] . name
    kItem,           // operands[0] [ operands[1] ]
    kSlice,          // operands[0] [ operands[1] : operands[2] : operands[3] ], null where left out
    kCall,           // operands[0] ( arguments )
    kFilter,         // operands[0] | name ( arguments ); operands[0] is null in filter blocks
    kTest,           // operands[0] is name ( arguments )
    kUnary,          // name ("-", "+" or "not") operands[0]
    kBinary,         // operands[0] name operands[1], name one of + - * / // % **
    kConcat,         // operands joined by ~
    kCompare,        // operands[0] operators[0] operands[1] operators[1] ...
    kAnd,            // operands[0] and operands[1]
    kOr,             // operands[0] or operands[1]
    kConditional,    // operands[0] if operands[1] else operands[2] (null if left out)
    kNamespaceField  // only as a target of set: name . field
  };
  using Literal = std::variant<std::monostate, bool, int64_t, double, std::string>;

  Kind kind = Kind::kLiteral;
  int line = 0;
  int depth = 1;  // of the tree below, bounded by the parser
  std::string name;
  std::string field;
  Literal literal;
  std::vector<ExpressionPtr> operands;
  std::vector<std::string> operators;
  CallArguments arguments;
};

struct MacroParameter {
  std::string name;
  ExpressionPtr default_value;  // null if there is none
};

/// What a macro and the block of a call statement have in common.
struct MacroDefinition {
  std::string name;
  std::vector<MacroParameter> parameters;
  Body body;
  // Special names that the body reads: only then are such arguments accepted.
  bool uses_caller = false;
  bool uses_kwargs = false;
  bool uses_varargs = false;
};

struct Statement {
  enum class Kind {
    kText,      // text
    kPrint,     // expressions, one after another
    kIf,        // branches: the first whose condition holds; a null condition is "else"
    kFor,       // target in iterable (filter), body, otherwise, recursive
    kSet,       // target = expressions[0]
    kSetBlock,  // target = body, passed through filter (may be null)
    kMacro,     // macro
    kCall,      // expressions[0] is the call; macro is its block
    kFilter,    // filter over body
    kWith,      // targets = expressions, around body
    kScope,     // body in a scope of its own (generation)
    kBlock,     // body that sees only the template's own variables
    kBreak,
    kContinue
  };
  struct Branch {
    ExpressionPtr condition;
    Body body;
  };

  Kind kind = Kind::kText;
  int line = 0;
  std::string text;
  std::vector<ExpressionPtr> expressions;
  std::vector<ExpressionPtr> targets;
  ExpressionPtr iterable;
  ExpressionPtr filter;
  std::vector<Branch> branches;
  Body body;
  Body otherwise;
  bool recursive = false;
  std::unique_ptr<MacroDefinition> macro;
};

}  // namespace tandem::frontend::jinja
