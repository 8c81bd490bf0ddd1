#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>

#include "frontend/jinja/interpreter.h"

namespace tandem::frontend::jinja {

/// The variable `loop` of a for statement. Items are drawn one by one, since the body may change
/// what the loop's own condition sees; asking for the length, or whether this is the last, draws
/// ahead.
class Loop : public Native {
 public:
  /// `scope` is the one around the statement; `size` is known for containers without a condition.
  Loop(Interpreter& interpreter, const Statement& statement, Scope& scope, NextValue next,
       std::optional<int64_t> size, int depth);

  /// Steps to the next item; nothing at the end.
  absl::StatusOr<std::optional<Value>> Advance();
  /// Draws no more: what the items were drawn from is gone.
  void Finish() { next_ = nullptr; }

  bool callable() const override { return true; }
  std::string Describe() const override;
  absl::StatusOr<std::optional<int64_t>> Length() override;
  absl::StatusOr<std::optional<Value>> Attribute(Interpreter& interpreter,
                                                 std::string_view name) override;
  /// Renders the body of a recursive loop over other items.
  absl::StatusOr<Value> Call(Interpreter& interpreter, const Arguments& arguments) override;

 private:
  absl::StatusOr<std::optional<Value>> Draw();
  absl::StatusOr<bool> HasNext();
  absl::StatusOr<int64_t> Size();

  Interpreter& interpreter_;
  const Statement& statement_;
  Scope& scope_;
  NextValue next_;
  std::optional<int64_t> size_;
  const int depth_;  // of recursion, from 0
  int64_t index_ = -1;
  std::optional<Value> previous_;
  std::optional<Value> current_;
  std::deque<Value> ahead_;
  std::optional<Value> last_changed_;
};

}  // namespace tandem::frontend::jinja
