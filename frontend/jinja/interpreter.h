#pragma once

#include <ctime>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/base/status.h"
#include "frontend/jinja/builtins/context.h"
#include "frontend/jinja/syntax/ast.h"
#include "frontend/jinja/values/sandbox.h"
#include "frontend/jinja/values/value.h"

namespace tandem::frontend::jinja {

/// The variables of one block, for loop or macro, over those of what is around it.
class Scope {
 public:
  explicit Scope(Scope* outer) : parent(outer) {}

  /// The variable here or further out; null if there is none. Adds to `looked_at` how many
  /// variables and scopes it took.
  const Value* Find(std::string_view name, size_t& looked_at) const;
  const Value* Find(std::string_view name) const {
    size_t looked_at = 0;
    return Find(name, looked_at);
  }
  void Set(std::string_view name, Value value);
  size_t size() const { return variables_.size(); }

  Scope* const parent;
  bool captured = false;  // a macro refers to it, so that it must outlive its block

 private:
  std::vector<std::pair<std::string, Value>> variables_;
};

/// Renders one template once: evaluates its tree in a sandbox without any input or output. Not
/// thread-safe, used for a single rendering.
class Interpreter : public Context {
 public:
  Interpreter(Sandbox& sandbox, const std::tm& now);

  /// Makes a variable that the template sees.
  void Define(std::string_view name, Value value) { globals_->Set(name, std::move(value)); }

  /// The same, unless there is one of that name already.
  void DefineDefault(std::string_view name, Value value) {
    if (globals_->Find(name) == nullptr) Define(name, std::move(value));
  }

  /// Renders the whole template. On failure the message starts with the line where it arose.
  absl::StatusOr<Text> Render(const Body& body);

  absl::StatusOr<Value> ApplyFilter(std::string_view name, const Value& subject,
                                    const Arguments& arguments) override;
  absl::StatusOr<bool> ApplyTest(std::string_view name, const Value& subject,
                                 const Arguments& arguments) override;
  absl::StatusOr<Value> GetAttribute(const Value& object, std::string_view name) override;
  absl::StatusOr<Value> GetItem(const Value& object, const Value& key) override;

 private:
  friend class LocalScope;
  friend class Macro;

  enum class Flow { kNext, kBreak, kContinue };

  // interpreter.cpp: statements.
  absl::StatusOr<Flow> ExecuteBody(const Body& body, Scope& scope, Text& out);
  absl::StatusOr<Flow> Execute(const Statement& statement, Scope& scope, Text& out);
  absl::StatusOr<Flow> Dispatch(const Statement& statement, Scope& scope, Text& out);
  absl::Status Print(const Value& value, Text& out);
  /// Scope::Find and Set, with fuel for the variables that they look at.
  absl::StatusOr<const Value*> FindVariable(std::string_view name, const Scope& scope);
  absl::Status SetVariable(std::string_view name, Value value, Scope& scope);
  absl::Status ChargeVariables(std::string_view name, size_t looked_at);
  absl::StatusOr<Flow> ExecuteIf(const Statement& statement, Scope& scope, Text& out);
  absl::StatusOr<Flow> ExecuteFor(const Statement& statement, Scope& scope, Text& out);
  absl::StatusOr<Flow> RunLoop(const Statement& statement, const Value& iterable, int depth,
                               Scope& scope, Text& out);
  absl::StatusOr<NextValue> LoopItems(const Statement& statement, const Value& iterable,
                                      Scope& scope);
  absl::StatusOr<std::optional<Value>> LookUpAttribute(const Value& object, std::string_view name);
  absl::Status ExecuteSet(const Statement& statement, Scope& scope);
  absl::Status ExecuteCall(const Statement& statement, Scope& scope, Text& out);
  absl::StatusOr<Flow> ExecuteCapture(const Statement& statement, Scope& scope, Text& out);
  absl::StatusOr<Flow> ExecuteWith(const Statement& statement, Scope& scope, Text& out);
  absl::Status Assign(const Expression& target, const Value& value, Scope& scope);
  absl::StatusOr<Value> MakeMacro(const MacroDefinition& definition, Scope& scope);
  absl::StatusOr<Value> CallMacro(const MacroDefinition& definition, Scope& scope,
                                  const Arguments& arguments);
  absl::Status BindParameters(const MacroDefinition& definition, Arguments arguments, Scope& scope);

  // evaluate.cpp: expressions.
  absl::StatusOr<Value> Evaluate(const Expression& expression, Scope& scope);
  absl::StatusOr<Value> EvaluateKind(const Expression& expression, Scope& scope);
  absl::StatusOr<Value> EvaluateLiteral(const Expression& expression);
  absl::StatusOr<Value> MakeUndefined(std::string reason);
  absl::StatusOr<Value> EvaluateName(const Expression& expression, Scope& scope);
  absl::StatusOr<Value> EvaluateSequence(const Expression& expression, Scope& scope);
  absl::StatusOr<Value> EvaluateDict(const Expression& expression, Scope& scope);
  absl::StatusOr<Value> EvaluateSlice(const Expression& expression, Scope& scope);
  /// `caller` is the block of a call statement, or null.
  absl::StatusOr<Value> EvaluateCall(const Expression& expression, Scope& scope,
                                     const Value* caller);
  /// `block` is what a filter without operand takes: the text of a filter or set block, or null.
  absl::StatusOr<Value> EvaluateFilter(const Expression& expression, Scope& scope,
                                       const Value* block);
  /// Fuel for the bytes of the texts that a filter, a test, a method or a function is given.
  absl::Status ChargeReading(const Value& subject, const Arguments& arguments);
  /// Calls a function, macro or method.
  absl::StatusOr<Value> Call(const Value& callee, const Arguments& arguments);
  absl::StatusOr<Value> EvaluateTest(const Expression& expression, Scope& scope);
  absl::StatusOr<Value> EvaluateUnary(const Expression& expression, Scope& scope);
  absl::StatusOr<Value> EvaluateBinary(const Expression& expression, Scope& scope);
  absl::StatusOr<Value> EvaluateConcat(const Expression& expression, Scope& scope);
  absl::StatusOr<Value> EvaluateCompare(const Expression& expression, Scope& scope);
  absl::StatusOr<Value> EvaluateLogical(const Expression& expression, Scope& scope);
  absl::StatusOr<Value> EvaluateConditional(const Expression& expression, Scope& scope);
  absl::StatusOr<Arguments> EvaluateArguments(const CallArguments& arguments, Scope& scope);

  // Counts a level of evaluation while it lives.
  class Nesting {
   public:
    explicit Nesting(Interpreter& interpreter) : depth_(interpreter.depth_) { ++depth_; }
    ~Nesting() { --depth_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    int& depth_;
  };
  absl::Status CheckNesting();

  // Remembers where a failure arose first.
  void Blame(int line) {
    if (failed_line_ == 0) failed_line_ = line;
  }

  std::unique_ptr<Scope> globals_;
  std::unordered_map<const Expression*, Value> literals_;  // strings made once
  Scope* top_ = nullptr;
  int depth_ = 0;
  int failed_line_ = 0;
  std::vector<std::unique_ptr<Scope>> captured_scopes_;
};

}  // namespace tandem::frontend::jinja
