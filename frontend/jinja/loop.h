#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "frontend/jinja/builtins/context.h"

namespace tandem::frontend::jinja {

/// The variable `loop` of a for statement. It draws items one by one, since the body may change
/// what the loop's condition sees. `loop.length` and `loop.last` draw ahead.
class Loop : public Native {
 public:
  /// The text of the body over other items.
  using Recurse = std::function<absl::StatusOr<Value>(const Value& items)>;

  /// `size` is known for containers without a condition. `depth` is that of the recursion, from 0;
  /// `recurse` is null where the statement is not marked 'recursive'.
  Loop(Sandbox& sandbox, NextValue next, std::optional<int64_t> size, int depth, Recurse recurse);

  /// Steps to the next item; nothing at the end.
  absl::StatusOr<std::optional<Value>> Advance();
  /// Draws no more: what the items were drawn from is gone.
  void Finish() { next_ = nullptr; }

  std::string Describe() const override;
  absl::StatusOr<std::optional<int64_t>> Length() override;
  absl::StatusOr<std::optional<Value>> Attribute(Context& context, std::string_view name) override;
  absl::StatusOr<Value> Call(Context& context, const Arguments& arguments) override;

 private:
  absl::StatusOr<std::optional<Value>> Draw();
  absl::StatusOr<bool> HasNext();
  absl::StatusOr<int64_t> Size();

  Sandbox& sandbox_;
  NextValue next_;
  std::optional<int64_t> size_;
  const int depth_;
  const Recurse recurse_;
  int64_t index_ = -1;
  std::optional<Value> previous_;
  std::optional<Value> current_;
  std::deque<Value> ahead_;
  std::optional<Value> last_changed_;
};

}  // namespace tandem::frontend::jinja
