#include "frontend/jinja/interpreter.h"

#include <algorithm>

#include "frontend/jinja/builtins/builtins.h"
#include "frontend/jinja/loop.h"
#include "frontend/jinja/values/iterate.h"
#include "frontend/jinja/values/print.h"

namespace tandem::frontend::jinja {

/// A scope that lives as long as a block, or on, where a macro has been defined in it.
class LocalScope {
 public:
  LocalScope(Interpreter& interpreter, Scope& parent)
      : interpreter_(interpreter), scope_(std::make_unique<Scope>(&parent)) {}
  ~LocalScope() {
    if (scope_->captured) interpreter_.captured_scopes_.push_back(std::move(scope_));
  }
  LocalScope(const LocalScope&) = delete;
  LocalScope& operator=(const LocalScope&) = delete;

  Scope& operator*() { return *scope_; }
  Scope* operator->() { return scope_.get(); }

 private:
  Interpreter& interpreter_;
  std::unique_ptr<Scope> scope_;
};

/// A macro, or the block of a call statement, with the scope it was defined in.
class Macro : public Native {
 public:
  Macro(Interpreter& interpreter, const MacroDefinition& definition, Scope& scope)
      : interpreter_(interpreter), definition_(definition), scope_(scope) {}
  std::string Describe() const override { return "<Macro " + StringRepr(definition_.name) + ">"; }
  absl::StatusOr<Value> Call(Context&, const Arguments& arguments) override {
    return interpreter_.CallMacro(definition_, scope_, arguments);
  }
  absl::StatusOr<std::optional<Value>> Attribute(Context& context, std::string_view name) override {
    if (name == "name") {
      TANDEM_ASSIGN_OR_RETURN(Value value, context.sandbox().String(definition_.name, true));
      return std::optional<Value>(std::move(value));
    }
    return std::optional<Value>();
  }

 private:
  Interpreter& interpreter_;
  const MacroDefinition& definition_;
  Scope& scope_;
};

namespace {

constexpr size_t kCopiedBytesPerStep = 128;
constexpr int64_t kScopeSteps = 2;  // of making a scope, and of ending it

/// Lets a scope, and what is around it, live on. Where one does, all around it do.
void Capture(Scope& scope) {
  for (Scope* outer = &scope; outer != nullptr && !outer->captured; outer = outer->parent) {
    outer->captured = true;
  }
}

}  // namespace

const Value* Scope::Find(std::string_view name, size_t& looked_at) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent) {
    looked_at += 1 + scope->variables_.size();
    for (const auto& [key, value] : scope->variables_) {
      if (key == name) return &value;
    }
  }
  return nullptr;
}

void Scope::Set(std::string_view name, Value value) {
  for (auto& [key, old] : variables_) {
    if (key == name) {
      old = std::move(value);
      return;
    }
  }
  variables_.emplace_back(std::string(name), std::move(value));
}

Interpreter::Interpreter(Sandbox& sandbox, const std::tm& now)
    : Context(sandbox, now), globals_(std::make_unique<Scope>(nullptr)) {}

absl::StatusOr<Text> Interpreter::Render(const Body& body) {
  for (const auto& [name, function] : GlobalFunctions()) {
    TANDEM_ASSIGN_OR_RETURN(Value value, sandbox().Make<Function>(name, function));
    DefineDefault(name, std::move(value));
  }
  LocalScope top(*this, *globals_);
  top_ = &*top;
  Text out;
  const absl::StatusOr<Flow> flow = ExecuteBody(body, *top, out);
  if (!flow.ok()) {
    return absl::Status(flow.status().code(),
                        fmt::format("line {}: {}", failed_line_, Message(flow.status())));
  }
  return out;
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteBody(const Body& body, Scope& scope,
                                                           Text& out) {
  for (const auto& statement : body) {
    TANDEM_ASSIGN_OR_RETURN(const Flow flow, Execute(*statement, scope, out));
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

absl::StatusOr<Interpreter::Flow> Interpreter::Execute(const Statement& statement, Scope& scope,
                                                       Text& out) {
  Nesting nesting(*this);
  TANDEM_RETURN_IF_ERROR(CheckNesting());
  absl::StatusOr<Flow> flow = Dispatch(statement, scope, out);
  if (!flow.ok()) Blame(statement.line);
  return flow;
}

absl::StatusOr<Interpreter::Flow> Interpreter::Dispatch(const Statement& statement, Scope& scope,
                                                        Text& out) {
  using Kind = Statement::Kind;
  switch (statement.kind) {
    case Kind::kText:
      out.Append(statement.text, /*trusted=*/true);
      TANDEM_RETURN_IF_ERROR(
          sandbox().Charge(static_cast<int64_t>(statement.text.size() / kCopiedBytesPerStep)));
      TANDEM_RETURN_IF_ERROR(sandbox().CheckStringSize(out.size()));
      break;
    case Kind::kPrint:
      for (const ExpressionPtr& expression : statement.expressions) {
        TANDEM_ASSIGN_OR_RETURN(const Value value, Evaluate(*expression, scope));
        TANDEM_RETURN_IF_ERROR(Print(value, out));
      }
      break;
    case Kind::kIf:
      return ExecuteIf(statement, scope, out);
    case Kind::kFor:
      return ExecuteFor(statement, scope, out);
    case Kind::kSet:
      TANDEM_RETURN_IF_ERROR(ExecuteSet(statement, scope));
      break;
    case Kind::kSetBlock:
    case Kind::kFilter:
    case Kind::kScope:
    case Kind::kBlock:
      return ExecuteCapture(statement, scope, out);
    case Kind::kMacro: {
      TANDEM_ASSIGN_OR_RETURN(Value macro, MakeMacro(*statement.macro, scope));
      TANDEM_RETURN_IF_ERROR(SetVariable(statement.macro->name, std::move(macro), scope));
      break;
    }
    case Kind::kCall:
      TANDEM_RETURN_IF_ERROR(ExecuteCall(statement, scope, out));
      break;
    case Kind::kWith:
      return ExecuteWith(statement, scope, out);
    case Kind::kBreak:
      return Flow::kBreak;
    case Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

absl::Status Interpreter::ChargeVariables(std::string_view name, size_t looked_at) {
  constexpr size_t kVariablesPerStep = 16;
  constexpr size_t kBytesPerVariable = 64;  // names are compared
  return sandbox().Charge(
      static_cast<int64_t>(looked_at * (1 + name.size() / kBytesPerVariable) / kVariablesPerStep));
}

absl::StatusOr<const Value*> Interpreter::FindVariable(std::string_view name, const Scope& scope) {
  size_t looked_at = 0;
  const Value* value = scope.Find(name, looked_at);
  TANDEM_RETURN_IF_ERROR(ChargeVariables(name, looked_at));
  return value;
}

absl::Status Interpreter::SetVariable(std::string_view name, Value value, Scope& scope) {
  TANDEM_RETURN_IF_ERROR(ChargeVariables(name, scope.size()));
  scope.Set(name, std::move(value));
  return absl::OkStatus();
}

absl::Status Interpreter::Print(const Value& value, Text& out) {
  TANDEM_ASSIGN_OR_RETURN(const Text text, ToText(sandbox(), value));
  TANDEM_RETURN_IF_ERROR(sandbox().CheckStringSize(out.size() + text.size()));
  out.Append(text);
  return sandbox().Charge(static_cast<int64_t>(text.MemoryBytes() / kCopiedBytesPerStep));
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteIf(const Statement& statement, Scope& scope,
                                                         Text& out) {
  for (const Statement::Branch& branch : statement.branches) {
    bool taken = true;
    if (branch.condition) {
      TANDEM_ASSIGN_OR_RETURN(const Value condition, Evaluate(*branch.condition, scope));
      taken = IsTruthy(condition);
    }
    if (taken) return ExecuteBody(branch.body, scope, out);
  }
  return Flow::kNext;
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteFor(const Statement& statement, Scope& scope,
                                                          Text& out) {
  TANDEM_ASSIGN_OR_RETURN(const Value iterable, Evaluate(*statement.iterable, scope));
  return RunLoop(statement, iterable, 0, scope, out);
}

absl::StatusOr<NextValue> Interpreter::LoopItems(const Statement& statement, const Value& iterable,
                                                 Scope& scope) {
  TANDEM_ASSIGN_OR_RETURN(NextValue next, Iterate(sandbox(), iterable));
  if (!statement.filter) return next;
  return NextValue(
      [this, &statement, &scope, next = std::move(next)]() -> absl::StatusOr<std::optional<Value>> {
        while (true) {
          TANDEM_ASSIGN_OR_RETURN(std::optional<Value> item, next());
          if (!item) return item;
          TANDEM_RETURN_IF_ERROR(sandbox().Charge(kScopeSteps));
          LocalScope inner(*this, scope);
          TANDEM_RETURN_IF_ERROR(Assign(*statement.targets[0], *item, *inner));
          TANDEM_ASSIGN_OR_RETURN(const Value condition, Evaluate(*statement.filter, *inner));
          if (IsTruthy(condition)) return item;
        }
      });
}

absl::StatusOr<Interpreter::Flow> Interpreter::RunLoop(const Statement& statement,
                                                       const Value& iterable, int depth,
                                                       Scope& scope, Text& out) {
  TANDEM_ASSIGN_OR_RETURN(NextValue next, LoopItems(statement, iterable, scope));
  std::optional<int64_t> size;
  if (!statement.filter && !iterable.is(Type::kIterator)) {
    TANDEM_ASSIGN_OR_RETURN(size, Length(iterable));
  }
  Loop::Recurse recurse;
  if (statement.recursive) {
    recurse = [this, &statement, depth, &scope](const Value& items) -> absl::StatusOr<Value> {
      Nesting nesting(*this);
      TANDEM_RETURN_IF_ERROR(CheckNesting());
      Text text;
      TANDEM_RETURN_IF_ERROR(RunLoop(statement, items, depth + 1, scope, text).status());
      return sandbox().String(std::move(text));
    };
    Capture(scope);
  }
  TANDEM_ASSIGN_OR_RETURN(
      const Value loop_value,
      sandbox().Make<Loop>(sandbox(), std::move(next), size, depth, std::move(recurse)));
  Loop& loop = loop_value.as<Loop>();
  bool completed = false;  // jinja2 runs "else" also where the first pass ends with "break"
  Flow flow = Flow::kNext;
  while (flow != Flow::kBreak) {
    TANDEM_ASSIGN_OR_RETURN(std::optional<Value> item, loop.Advance());
    if (!item) break;
    TANDEM_RETURN_IF_ERROR(sandbox().Charge(kScopeSteps));
    LocalScope inner(*this, scope);
    inner->Set("loop", loop_value);
    TANDEM_RETURN_IF_ERROR(Assign(*statement.targets[0], *item, *inner));
    TANDEM_ASSIGN_OR_RETURN(flow, ExecuteBody(statement.body, *inner, out));
    completed |= flow == Flow::kNext;
  }
  loop.Finish();
  if (!completed) {
    LocalScope inner(*this, scope);
    return ExecuteBody(statement.otherwise, *inner, out);
  }
  return Flow::kNext;
}

absl::Status Interpreter::ExecuteSet(const Statement& statement, Scope& scope) {
  TANDEM_ASSIGN_OR_RETURN(const Value value, Evaluate(*statement.expressions[0], scope));
  return Assign(*statement.targets[0], value, scope);
}

absl::Status Interpreter::Assign(const Expression& target, const Value& value, Scope& scope) {
  if (target.kind == Expression::Kind::kName) {
    return SetVariable(target.name, value, scope);
  }
  if (target.kind == Expression::Kind::kTuple) {
    TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(sandbox(), value));
    if (items.size() != target.operands.size()) {
      return InvalidArgument("cannot unpack {} values into {} names", items.size(),
                             target.operands.size());
    }
    for (size_t index = 0; index < items.size(); ++index) {
      TANDEM_RETURN_IF_ERROR(Assign(*target.operands[index], items[index], scope));
    }
    return absl::OkStatus();
  }
  TANDEM_ASSIGN_OR_RETURN(const Value* found, FindVariable(target.name, scope));
  if (found == nullptr || !found->is(Type::kNamespace)) {
    return InvalidArgument("cannot assign to '{}.{}': '{}' is not a namespace", target.name,
                           target.field, target.name);
  }
  if (target.field.front() == '_') {
    return InvalidArgument("fields of a namespace cannot start with an underscore, as '{}' does",
                           target.field);
  }
  Dict& fields = found->as<Dict>();
  TANDEM_ASSIGN_OR_RETURN(const Value key, sandbox().String(target.field, true));
  TANDEM_RETURN_IF_ERROR(sandbox().ChargeKey(fields, key));
  if (fields.Find(target.field) == nullptr) {
    TANDEM_RETURN_IF_ERROR(sandbox().Reserve(Sandbox::kDictEntryBytes));
  }
  fields.Set(key, value);
  return absl::OkStatus();
}

absl::StatusOr<Value> Interpreter::MakeMacro(const MacroDefinition& definition, Scope& scope) {
  Capture(scope);
  TANDEM_RETURN_IF_ERROR(sandbox().Charge(kScopeSteps));
  TANDEM_RETURN_IF_ERROR(sandbox().Reserve(sizeof(Scope)));
  return sandbox().Make<Macro>(*this, definition, scope);
}

absl::StatusOr<Value> Interpreter::CallMacro(const MacroDefinition& definition, Scope& scope,
                                             const Arguments& arguments) {
  Nesting nesting(*this);
  TANDEM_RETURN_IF_ERROR(CheckNesting());
  TANDEM_RETURN_IF_ERROR(sandbox().Charge(kScopeSteps));
  LocalScope inner(*this, scope);
  TANDEM_RETURN_IF_ERROR(BindParameters(definition, arguments, *inner));
  Text out;
  TANDEM_RETURN_IF_ERROR(ExecuteBody(definition.body, *inner, out).status());
  return sandbox().String(std::move(out));
}

absl::Status Interpreter::BindParameters(const MacroDefinition& definition, Arguments arguments,
                                         Scope& scope) {
  const auto take_named = [&arguments](std::string_view name) {
    const auto found = std::find_if(arguments.named.begin(), arguments.named.end(),
                                    [&](const auto& entry) { return entry.first == name; });
    std::optional<Value> value;
    if (found != arguments.named.end()) {
      value = std::move(found->second);
      arguments.named.erase(found);
    }
    return value;
  };
  // Each parameter is looked for among the names that are given and among those that are set.
  const size_t given = definition.parameters.size() + arguments.named.size();
  constexpr size_t kNamesPerStep = 16;
  TANDEM_RETURN_IF_ERROR(
      sandbox().Charge(static_cast<int64_t>(definition.parameters.size() * given / kNamesPerStep)));
  std::vector<const MacroParameter*> missing;
  bool declares_caller = false;
  for (size_t index = 0; index < definition.parameters.size(); ++index) {
    const MacroParameter& parameter = definition.parameters[index];
    declares_caller |= parameter.name == "caller";
    if (index < arguments.positional.size()) {
      scope.Set(parameter.name, arguments.positional[index]);
    } else if (std::optional<Value> value = take_named(parameter.name)) {
      scope.Set(parameter.name, *std::move(value));
    } else {
      missing.push_back(&parameter);
    }
  }
  if (definition.uses_caller && !declares_caller) {
    scope.Set("caller", take_named("caller").value_or(Value::Undefined("No caller defined")));
  }
  if (definition.uses_kwargs) {
    auto rest = std::make_unique<Dict>();
    for (auto& [name, value] : arguments.named) {
      TANDEM_ASSIGN_OR_RETURN(const Value key, sandbox().String(name, false));
      TANDEM_RETURN_IF_ERROR(sandbox().ChargeKey(*rest, key));
      rest->Set(key, std::move(value));
    }
    TANDEM_ASSIGN_OR_RETURN(Value kwargs, sandbox().Take(std::move(rest)));
    scope.Set("kwargs", std::move(kwargs));
  } else if (!arguments.named.empty()) {
    return InvalidArgument("macro '{}' takes no keyword argument '{}'", definition.name,
                           arguments.named.front().first);
  }
  const size_t expected = definition.parameters.size();
  if (definition.uses_varargs) {
    const size_t taken = std::min(expected, arguments.positional.size());
    TANDEM_ASSIGN_OR_RETURN(Value varargs,
                            sandbox().Tuple(std::vector<Value>(
                                arguments.positional.begin() + static_cast<std::ptrdiff_t>(taken),
                                arguments.positional.end())));
    scope.Set("varargs", std::move(varargs));
  } else if (arguments.positional.size() > expected) {
    return InvalidArgument("macro '{}' takes not more than {} argument(s), {} are given",
                           definition.name, expected, arguments.positional.size());
  }
  for (const MacroParameter* parameter : missing) {
    Value value = Value::Undefined(fmt::format("parameter '{}' was not provided", parameter->name));
    if (parameter->default_value) {
      TANDEM_ASSIGN_OR_RETURN(value, Evaluate(*parameter->default_value, scope));
    }
    scope.Set(parameter->name, std::move(value));
  }
  return absl::OkStatus();
}

absl::Status Interpreter::ExecuteCall(const Statement& statement, Scope& scope, Text& out) {
  TANDEM_ASSIGN_OR_RETURN(const Value caller, MakeMacro(*statement.macro, scope));
  TANDEM_ASSIGN_OR_RETURN(const Value result,
                          EvaluateCall(*statement.expressions[0], scope, &caller));
  return Print(result, out);
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteCapture(const Statement& statement,
                                                              Scope& scope, Text& out) {
  using Kind = Statement::Kind;
  TANDEM_RETURN_IF_ERROR(sandbox().Charge(kScopeSteps));
  LocalScope inner(*this, statement.kind == Kind::kBlock ? *top_ : scope);
  if (statement.kind == Kind::kScope || statement.kind == Kind::kBlock) {
    return ExecuteBody(statement.body, *inner, out);
  }
  Text captured;
  TANDEM_ASSIGN_OR_RETURN(const Flow flow, ExecuteBody(statement.body, *inner, captured));
  if (flow != Flow::kNext) return flow;
  TANDEM_ASSIGN_OR_RETURN(Value value, sandbox().String(std::move(captured)));
  if (statement.filter) {
    TANDEM_ASSIGN_OR_RETURN(const Value filtered,
                            EvaluateFilter(*statement.filter, *inner, &value));
    value = filtered;
  }
  TANDEM_RETURN_IF_ERROR(statement.kind == Kind::kFilter
                             ? Print(value, out)
                             : Assign(*statement.targets[0], value, scope));
  return Flow::kNext;
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteWith(const Statement& statement, Scope& scope,
                                                           Text& out) {
  TANDEM_RETURN_IF_ERROR(sandbox().Charge(kScopeSteps));
  LocalScope inner(*this, scope);
  for (size_t index = 0; index < statement.targets.size(); ++index) {
    TANDEM_ASSIGN_OR_RETURN(const Value value, Evaluate(*statement.expressions[index], scope));
    TANDEM_RETURN_IF_ERROR(Assign(*statement.targets[index], value, *inner));
  }
  return ExecuteBody(statement.body, *inner, out);
}

}  // namespace tandem::frontend::jinja
