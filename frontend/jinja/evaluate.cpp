#include <algorithm>
#include <utility>

#include "frontend/jinja/builtins/builtins.h"
#include "frontend/jinja/builtins/operators.h"
#include "frontend/jinja/interpreter.h"
#include "frontend/jinja/values/compare.h"
#include "frontend/jinja/values/iterate.h"
#include "frontend/jinja/values/print.h"

// Expressions.
namespace tandem::frontend::jinja {
namespace {

using Kind = Expression::Kind;

constexpr size_t kReadBytesPerStep = 16;

// How jinja2 names an object whose attribute is missing.
std::string Described(const Value& value) {
  return value.IsNone() ? "None" : std::string(TypeName(value)) + " object";
}

/// A name, or as much of it as a message has room for.
std::string_view Shown(std::string_view name) {
  constexpr size_t kBytes = 200;
  size_t size = std::min(name.size(), kBytes);
  while (size < name.size() && size > 0 &&
         (static_cast<unsigned char>(name[size]) & 0xC0) == 0x80) {
    --size;
  }
  return name.substr(0, size);
}

bool IsUnsafeName(std::string_view name) { return name.substr(0, 2) == "__"; }

Value UnsafeAttribute(const Value& object, std::string_view name) {
  return Value::Undefined(fmt::format("access to attribute '{}' of '{}' object is unsafe",
                                      Shown(name), TypeName(object)));
}

bool Holds(std::string_view operation, Order order) {
  if (operation == "<") return order == Order::kLess;
  if (operation == ">") return order == Order::kGreater;
  if (operation == "<=") return order == Order::kLess || order == Order::kEqual;
  return order == Order::kGreater || order == Order::kEqual;
}

}  // namespace

absl::Status Interpreter::CheckNesting() {
  if (depth_ > sandbox().limits().depth) {
    return ResourceExhausted("the template is nested deeper than {}: an endless recursion?",
                             sandbox().limits().depth);
  }
  return sandbox().Charge(1);
}

absl::StatusOr<Value> Interpreter::Evaluate(const Expression& expression, Scope& scope) {
  Nesting nesting(*this);
  TANDEM_RETURN_IF_ERROR(CheckNesting());
  absl::StatusOr<Value> value = EvaluateKind(expression, scope);
  if (!value.ok()) Blame(expression.line);
  return value;
}

absl::StatusOr<Value> Interpreter::EvaluateKind(const Expression& expression, Scope& scope) {
  switch (expression.kind) {
    case Kind::kLiteral:
      return EvaluateLiteral(expression);
    case Kind::kName:
      return EvaluateName(expression, scope);
    case Kind::kList:
    case Kind::kTuple:
      return EvaluateSequence(expression, scope);
    case Kind::kDict:
      return EvaluateDict(expression, scope);
    case Kind::kAttribute: {
      TANDEM_ASSIGN_OR_RETURN(const Value object, Evaluate(*expression.operands[0], scope));
      return GetAttribute(object, expression.name);
    }
    case Kind::kItem: {
      TANDEM_ASSIGN_OR_RETURN(const Value object, Evaluate(*expression.operands[0], scope));
      TANDEM_ASSIGN_OR_RETURN(const Value key, Evaluate(*expression.operands[1], scope));
      return GetItem(object, key);
    }
    case Kind::kSlice:
      return EvaluateSlice(expression, scope);
    case Kind::kCall:
      return EvaluateCall(expression, scope, nullptr);
    case Kind::kFilter:
      return EvaluateFilter(expression, scope, nullptr);
    case Kind::kTest:
      return EvaluateTest(expression, scope);
    case Kind::kUnary:
      return EvaluateUnary(expression, scope);
    case Kind::kBinary:
      return EvaluateBinary(expression, scope);
    case Kind::kConcat:
      return EvaluateConcat(expression, scope);
    case Kind::kCompare:
      return EvaluateCompare(expression, scope);
    case Kind::kAnd:
    case Kind::kOr:
      return EvaluateLogical(expression, scope);
    case Kind::kConditional:
      return EvaluateConditional(expression, scope);
    case Kind::kNamespaceField:
      break;
  }
  return Internal("an assignment target was evaluated");
}

absl::StatusOr<Value> Interpreter::EvaluateLiteral(const Expression& expression) {
  const Expression::Literal& literal = expression.literal;
  if (const auto* text = std::get_if<std::string>(&literal)) {
    const auto known = literals_.find(&expression);
    if (known != literals_.end()) return known->second;
    TANDEM_ASSIGN_OR_RETURN(Value value, sandbox().String(*text, /*trusted=*/true));
    literals_.emplace(&expression, value);
    return value;
  }
  if (const auto* boolean = std::get_if<bool>(&literal)) return Value::Bool(*boolean, true);
  if (const auto* integer = std::get_if<int64_t>(&literal)) return Value::Int(*integer, true);
  if (const auto* number = std::get_if<double>(&literal)) return Value::Float(*number, true);
  return Value::None(true);
}

absl::StatusOr<Value> Interpreter::MakeUndefined(std::string reason) {
  TANDEM_RETURN_IF_ERROR(sandbox().Charge(2));
  return Value::Undefined(std::move(reason));
}

absl::StatusOr<Value> Interpreter::EvaluateName(const Expression& expression, Scope& scope) {
  TANDEM_ASSIGN_OR_RETURN(const Value* value, FindVariable(expression.name, scope));
  if (value != nullptr) return *value;
  return MakeUndefined(fmt::format("'{}' is undefined", Shown(expression.name)));
}

absl::StatusOr<Value> Interpreter::EvaluateSequence(const Expression& expression, Scope& scope) {
  std::vector<Value> items;
  items.reserve(expression.operands.size());
  for (const ExpressionPtr& operand : expression.operands) {
    TANDEM_ASSIGN_OR_RETURN(Value item, Evaluate(*operand, scope));
    items.push_back(std::move(item));
  }
  return expression.kind == Kind::kList ? sandbox().List(std::move(items))
                                        : sandbox().Tuple(std::move(items));
}

absl::StatusOr<Value> Interpreter::EvaluateDict(const Expression& expression, Scope& scope) {
  auto dict = std::make_unique<Dict>();
  for (size_t index = 0; index < expression.operands.size(); index += 2) {
    TANDEM_ASSIGN_OR_RETURN(const Value key, Evaluate(*expression.operands[index], scope));
    TANDEM_ASSIGN_OR_RETURN(Value value, Evaluate(*expression.operands[index + 1], scope));
    if (!IsHashable(key)) return InvalidArgument("unhashable type: '{}'", TypeName(key));
    TANDEM_RETURN_IF_ERROR(sandbox().ChargeKey(*dict, key));
    dict->Set(key, std::move(value));
  }
  return sandbox().Take(std::move(dict));
}

absl::StatusOr<Value> Interpreter::EvaluateSlice(const Expression& expression, Scope& scope) {
  TANDEM_ASSIGN_OR_RETURN(const Value object, Evaluate(*expression.operands[0], scope));
  Value bounds[3];
  for (size_t index = 0; index < 3; ++index) {
    if (expression.operands[index + 1]) {
      TANDEM_ASSIGN_OR_RETURN(bounds[index], Evaluate(*expression.operands[index + 1], scope));
    }
  }
  return Slice(sandbox(), object, bounds[0], bounds[1], bounds[2]);
}

absl::StatusOr<Arguments> Interpreter::EvaluateArguments(const CallArguments& arguments,
                                                         Scope& scope) {
  Arguments values;
  for (const ExpressionPtr& argument : arguments.positional) {
    TANDEM_ASSIGN_OR_RETURN(Value value, Evaluate(*argument, scope));
    values.positional.push_back(std::move(value));
  }
  for (const auto& [name, argument] : arguments.named) {
    TANDEM_ASSIGN_OR_RETURN(Value value, Evaluate(*argument, scope));
    values.named.emplace_back(name, std::move(value));
  }
  if (arguments.unpacked) {
    TANDEM_ASSIGN_OR_RETURN(const Value list, Evaluate(*arguments.unpacked, scope));
    TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(sandbox(), list));
    values.positional.insert(values.positional.end(), items.begin(), items.end());
  }
  if (arguments.unpacked_named) {
    TANDEM_ASSIGN_OR_RETURN(const Value dict, Evaluate(*arguments.unpacked_named, scope));
    if (!dict.is(Type::kDict)) {
      return InvalidArgument("the argument after ** must be a mapping, not {}", TypeName(dict));
    }
    for (const auto& [key, value] : dict.as<Dict>().entries()) {
      if (!key.IsString()) return InvalidArgument("keywords must be strings");
      TANDEM_RETURN_IF_ERROR(
          sandbox().Charge(static_cast<int64_t>(1 + key.text().size() / kReadBytesPerStep)));
      values.named.emplace_back(key.bytes(), value);
    }
  }
  return values;
}

absl::StatusOr<Value> Interpreter::EvaluateCall(const Expression& expression, Scope& scope,
                                                const Value* caller) {
  const Expression& callee = *expression.operands[0];
  // Methods are called without making a bound method first.
  Value self;
  Method method = nullptr;
  Value function;
  if (callee.kind == Kind::kAttribute) {
    TANDEM_ASSIGN_OR_RETURN(self, Evaluate(*callee.operands[0], scope));
    method = FindMethod(self, callee.name);
    if (method == nullptr) {
      TANDEM_ASSIGN_OR_RETURN(function, GetAttribute(self, callee.name));
    }
  } else {
    TANDEM_ASSIGN_OR_RETURN(function, Evaluate(callee, scope));
  }
  TANDEM_ASSIGN_OR_RETURN(Arguments arguments, EvaluateArguments(expression.arguments, scope));
  if (caller != nullptr) arguments.named.emplace_back("caller", *caller);
  TANDEM_RETURN_IF_ERROR(ChargeReading(self, arguments));
  return method != nullptr ? method(*this, self, arguments) : Call(function, arguments);
}

absl::Status Interpreter::ChargeReading(const Value& subject, const Arguments& arguments) {
  constexpr int64_t kCallSteps = 2;  // the name is looked up, arguments meet parameters
  const auto bytes = [](const Value& value) {
    return value.IsString() ? value.text().MemoryBytes() : 0;
  };
  size_t read = bytes(subject);
  for (const Value& value : arguments.positional) read += bytes(value);
  for (const auto& [name, value] : arguments.named) read += bytes(value);
  return sandbox().Charge(kCallSteps + static_cast<int64_t>(read / kReadBytesPerStep));
}

absl::StatusOr<Value> Interpreter::Call(const Value& callee, const Arguments& arguments) {
  if (callee.IsUndefined()) return InvalidArgument("{}", callee.reason());
  if (!callee.is(Type::kNative)) {
    return InvalidArgument("'{}' object is not callable", TypeName(callee));
  }
  return callee.as<Native>().Call(*this, arguments);
}

absl::StatusOr<Value> Interpreter::ApplyFilter(std::string_view name, const Value& subject,
                                               const Arguments& arguments) {
  const Filter filter = FindFilter(name);
  if (filter == nullptr) return InvalidArgument("there is no filter named '{}'", name);
  TANDEM_RETURN_IF_ERROR(ChargeReading(subject, arguments));
  return filter(*this, subject, arguments);
}

absl::StatusOr<bool> Interpreter::ApplyTest(std::string_view name, const Value& subject,
                                            const Arguments& arguments) {
  const Test test = FindTest(name);
  if (test == nullptr) return InvalidArgument("there is no test named '{}'", name);
  TANDEM_RETURN_IF_ERROR(ChargeReading(subject, arguments));
  return test(*this, subject, arguments);
}

absl::StatusOr<Value> Interpreter::EvaluateFilter(const Expression& expression, Scope& scope,
                                                  const Value* block) {
  Value subject;
  const ExpressionPtr& operand = expression.operands[0];
  if (!operand) {
    subject = *block;
  } else if (block != nullptr && operand->kind == Kind::kFilter) {
    TANDEM_ASSIGN_OR_RETURN(subject, EvaluateFilter(*operand, scope, block));
  } else {
    TANDEM_ASSIGN_OR_RETURN(subject, Evaluate(*operand, scope));
  }
  TANDEM_ASSIGN_OR_RETURN(const Arguments arguments,
                          EvaluateArguments(expression.arguments, scope));
  return ApplyFilter(expression.name, subject, arguments);
}

absl::StatusOr<Value> Interpreter::EvaluateTest(const Expression& expression, Scope& scope) {
  TANDEM_ASSIGN_OR_RETURN(const Value subject, Evaluate(*expression.operands[0], scope));
  TANDEM_ASSIGN_OR_RETURN(const Arguments arguments,
                          EvaluateArguments(expression.arguments, scope));
  TANDEM_ASSIGN_OR_RETURN(const bool result, ApplyTest(expression.name, subject, arguments));
  return Value::Bool(result, true);
}

absl::StatusOr<Value> Interpreter::EvaluateUnary(const Expression& expression, Scope& scope) {
  TANDEM_ASSIGN_OR_RETURN(const Value operand, Evaluate(*expression.operands[0], scope));
  if (expression.name == "not") return Value::Bool(!IsTruthy(operand), true);
  if (operand.IsUndefined()) return InvalidArgument("{}", operand.reason());
  return expression.name == "-" ? Negate(operand) : Plus(operand);
}

absl::StatusOr<Value> Interpreter::EvaluateBinary(const Expression& expression, Scope& scope) {
  TANDEM_ASSIGN_OR_RETURN(const Value left, Evaluate(*expression.operands[0], scope));
  TANDEM_ASSIGN_OR_RETURN(const Value right, Evaluate(*expression.operands[1], scope));
  return Binary(sandbox(), expression.name, left, right);
}

absl::StatusOr<Value> Interpreter::EvaluateConcat(const Expression& expression, Scope& scope) {
  Text text;
  for (const ExpressionPtr& operand : expression.operands) {
    TANDEM_ASSIGN_OR_RETURN(const Value value, Evaluate(*operand, scope));
    TANDEM_ASSIGN_OR_RETURN(const Text part, ToText(sandbox(), value));
    TANDEM_RETURN_IF_ERROR(sandbox().CheckStringSize(text.size() + part.size()));
    text.Append(part);
  }
  return sandbox().String(std::move(text));
}

absl::StatusOr<Value> Interpreter::EvaluateCompare(const Expression& expression, Scope& scope) {
  TANDEM_ASSIGN_OR_RETURN(Value left, Evaluate(*expression.operands[0], scope));
  for (size_t index = 0; index < expression.operators.size(); ++index) {
    const std::string& operation = expression.operators[index];
    TANDEM_ASSIGN_OR_RETURN(Value right, Evaluate(*expression.operands[index + 1], scope));
    bool holds = false;
    if (operation == "==" || operation == "!=") {
      TANDEM_ASSIGN_OR_RETURN(const bool same, Equal(sandbox(), left, right));
      holds = same == (operation == "==");
    } else if (operation == "in" || operation == "not in") {
      TANDEM_ASSIGN_OR_RETURN(const bool inside, Contains(sandbox(), right, left));
      holds = inside == (operation == "in");
    } else {
      TANDEM_ASSIGN_OR_RETURN(const Order order, Compare(sandbox(), left, right, operation));
      holds = Holds(operation, order);
    }
    if (!holds) return Value::Bool(false, true);
    left = std::move(right);
  }
  return Value::Bool(true, true);
}

absl::StatusOr<Value> Interpreter::EvaluateLogical(const Expression& expression, Scope& scope) {
  TANDEM_ASSIGN_OR_RETURN(Value left, Evaluate(*expression.operands[0], scope));
  if (IsTruthy(left) == (expression.kind == Kind::kOr)) return left;
  return Evaluate(*expression.operands[1], scope);
}

absl::StatusOr<Value> Interpreter::EvaluateConditional(const Expression& expression, Scope& scope) {
  TANDEM_ASSIGN_OR_RETURN(const Value condition, Evaluate(*expression.operands[1], scope));
  if (IsTruthy(condition)) return Evaluate(*expression.operands[0], scope);
  if (expression.operands[2]) return Evaluate(*expression.operands[2], scope);
  return MakeUndefined(
      fmt::format("the inline if-expression on line {} evaluated to false and no else section was "
                  "defined",
                  expression.line));
}

absl::StatusOr<std::optional<Value>> Interpreter::LookUpAttribute(const Value& object,
                                                                  std::string_view name) {
  if (IsUnsafeName(name) || IsMutatingMethod(object, name)) {
    return std::optional<Value>(UnsafeAttribute(object, name));
  }
  if (const Method method = FindMethod(object, name)) {
    TANDEM_ASSIGN_OR_RETURN(
        Value bound,
        sandbox().Make<Function>(std::string(name),
                                 [method, object](Context& context, const Arguments& arguments) {
                                   return method(context, object, arguments);
                                 }));
    return std::optional<Value>(std::move(bound));
  }
  if (object.is(Type::kNative)) return object.as<Native>().Attribute(*this, name);
  if (object.is(Type::kNamespace)) {
    const Value* field = object.as<Dict>().Find(name);
    if (field != nullptr) return std::optional<Value>(*field);
  }
  return std::optional<Value>();
}

absl::StatusOr<Value> Interpreter::GetAttribute(const Value& object, std::string_view name) {
  if (object.IsUndefined()) return InvalidArgument("{}", object.reason());
  TANDEM_RETURN_IF_ERROR(
      sandbox().Charge(static_cast<int64_t>(1 + name.size() / kReadBytesPerStep)));
  TANDEM_ASSIGN_OR_RETURN(std::optional<Value> attribute, LookUpAttribute(object, name));
  if (attribute) return *std::move(attribute);
  if (object.is(Type::kDict)) {
    const Value* item = object.as<Dict>().Find(name);
    if (item != nullptr) return *item;
  }
  return MakeUndefined(fmt::format("'{}' has no attribute '{}'", Described(object), Shown(name)));
}

absl::StatusOr<Value> Interpreter::GetItem(const Value& object, const Value& key) {
  if (key.IsString()) {
    TANDEM_RETURN_IF_ERROR(
        sandbox().Charge(static_cast<int64_t>(key.text().size() / kReadBytesPerStep)));
  }
  switch (object.type()) {
    case Type::kUndefined:
      return InvalidArgument("{}", object.reason());
    case Type::kString:
    case Type::kList:
    case Type::kTuple:
    case Type::kRange:
      if (key.IsIntegral()) {
        TANDEM_ASSIGN_OR_RETURN(std::optional<Value> item, Index(sandbox(), object, key.integer()));
        if (item) return *std::move(item);
      }
      break;
    case Type::kDict:
      if (IsHashable(key)) {
        TANDEM_RETURN_IF_ERROR(sandbox().ChargeKey(object.as<Dict>(), key));
        const Value* item = object.as<Dict>().Find(key);
        if (item != nullptr) return *item;
      }
      break;
    default:
      break;
  }
  if (key.IsString()) {
    TANDEM_ASSIGN_OR_RETURN(std::optional<Value> attribute, LookUpAttribute(object, key.bytes()));
    if (attribute) return *std::move(attribute);
    return MakeUndefined(
        fmt::format("'{}' has no attribute '{}'", Described(object), Shown(key.bytes())));
  }
  TANDEM_ASSIGN_OR_RETURN(const Text shown, Repr(sandbox(), key));
  return MakeUndefined(
      fmt::format("{} has no element {}", Described(object), Shown(shown.bytes())));
}

}  // namespace tandem::frontend::jinja
