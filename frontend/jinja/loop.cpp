#include "frontend/jinja/loop.h"

#include <utility>

#include "frontend/jinja/values/compare.h"

namespace tandem::frontend::jinja {

Loop::Loop(Sandbox& sandbox, NextValue next, std::optional<int64_t> size, int depth,
           Recurse recurse)
    : sandbox_(sandbox),
      next_(std::move(next)),
      size_(size),
      depth_(depth),
      recurse_(std::move(recurse)) {}

absl::StatusOr<std::optional<Value>> Loop::Draw() {
  if (!next_) return std::optional<Value>();
  TANDEM_RETURN_IF_ERROR(sandbox_.Charge(1));
  return next_();
}

absl::StatusOr<std::optional<Value>> Loop::Advance() {
  std::optional<Value> item;
  if (ahead_.empty()) {
    TANDEM_ASSIGN_OR_RETURN(item, Draw());
  } else {
    item = std::move(ahead_.front());
    ahead_.pop_front();
  }
  if (item) {
    ++index_;
    previous_ = std::move(current_);
    current_ = item;
  }
  return item;
}

absl::StatusOr<bool> Loop::HasNext() {
  if (ahead_.empty()) {
    TANDEM_ASSIGN_OR_RETURN(std::optional<Value> item, Draw());
    if (!item) return false;
    ahead_.push_back(*std::move(item));
  }
  return true;
}

absl::StatusOr<int64_t> Loop::Size() {
  if (!size_) {
    while (true) {
      TANDEM_ASSIGN_OR_RETURN(std::optional<Value> item, Draw());
      if (!item) break;
      ahead_.push_back(*std::move(item));
    }
    size_ = index_ + 1 + static_cast<int64_t>(ahead_.size());
  }
  return *size_;
}

std::string Loop::Describe() const {
  return fmt::format("<LoopContext {}/{}>", index_ + 1, size_.value_or(index_ + 1));
}

absl::StatusOr<std::optional<int64_t>> Loop::Length() {
  TANDEM_ASSIGN_OR_RETURN(const int64_t size, Size());
  return std::optional<int64_t>(size);
}

absl::StatusOr<std::optional<Value>> Loop::Attribute(Context& context, std::string_view name) {
  const auto number = [](int64_t value) { return std::optional<Value>(Value::Int(value, true)); };
  if (name == "index") return number(index_ + 1);
  if (name == "index0") return number(index_);
  if (name == "first") return std::optional<Value>(Value::Bool(index_ == 0, true));
  if (name == "last") {
    TANDEM_ASSIGN_OR_RETURN(const bool more, HasNext());
    return std::optional<Value>(Value::Bool(!more, true));
  }
  if (name == "length" || name == "revindex" || name == "revindex0") {
    TANDEM_ASSIGN_OR_RETURN(const int64_t size, Size());
    return number(name == "length" ? size : size - index_ - (name == "revindex0" ? 1 : 0));
  }
  if (name == "depth" || name == "depth0") return number(depth_ + (name == "depth" ? 1 : 0));
  if (name == "previtem") {
    return previous_ ? previous_ : Value::Undefined("there is no previous item");
  }
  if (name == "nextitem") {
    TANDEM_ASSIGN_OR_RETURN(const bool more, HasNext());
    return std::optional<Value>(more ? ahead_.front() : Value::Undefined("there is no next item"));
  }
  if (name == "cycle") {
    TANDEM_ASSIGN_OR_RETURN(
        Value cycle,
        context.sandbox().Make<Function>(
            "cycle", [this](Context&, const Arguments& arguments) -> absl::StatusOr<Value> {
              const auto& items = arguments.positional;
              if (items.empty()) return InvalidArgument("no items for cycling given");
              return items[static_cast<size_t>(index_) % items.size()];
            }));
    return std::optional<Value>(std::move(cycle));
  }
  if (name == "changed") {
    TANDEM_ASSIGN_OR_RETURN(
        Value changed,
        context.sandbox().Make<Function>(
            "changed",
            [this](Context& caller, const Arguments& arguments) -> absl::StatusOr<Value> {
              TANDEM_ASSIGN_OR_RETURN(Value now, caller.sandbox().Tuple(arguments.positional));
              if (last_changed_) {
                TANDEM_ASSIGN_OR_RETURN(const bool same,
                                        Equal(caller.sandbox(), *last_changed_, now));
                if (same) return Value::Bool(false, true);
              }
              last_changed_ = std::move(now);
              return Value::Bool(true, true);
            }));
    return std::optional<Value>(std::move(changed));
  }
  return std::optional<Value>();
}

absl::StatusOr<Value> Loop::Call(Context&, const Arguments& arguments) {
  if (!recurse_) return InvalidArgument("only loops marked 'recursive' can be called");
  if (arguments.positional.size() != 1 || !arguments.named.empty()) {
    return InvalidArgument("loop() takes one argument, what to loop over");
  }
  return recurse_(arguments.positional[0]);
}

}  // namespace tandem::frontend::jinja
