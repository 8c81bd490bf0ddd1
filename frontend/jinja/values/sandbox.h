#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "frontend/jinja/values/value.h"

namespace tandem::frontend::jinja {

/// What one rendering may use before it is ended with an error.
struct Limits {
  int64_t steps = 30'000'000;      // of work, each some 60 ns at most (Sandbox::Charge)
  size_t string_bytes = 8u << 20;  // of one string, the output included
  size_t live_bytes = 128u << 20;  // of all strings and containers together
  int depth = 1000;                // nested expressions, statements and macro calls
  int value_depth = 100;           // nested lists and dicts
};

/// The heap and the budget of one rendering. Not thread-safe. Must outlive its values.
class Sandbox {
 public:
  explicit Sandbox(const Limits& limits) : limits_(limits) {}
  Sandbox(const Sandbox&) = delete;
  Sandbox& operator=(const Sandbox&) = delete;

  const Limits& limits() const { return limits_; }
  /// Fuel that was spent.
  int64_t used_steps() const { return used_steps_; }

  /// Uses up fuel. Fails with ResourceExhausted when there is none left.
  ///
  /// Whatever is done is paid for by what it takes, so that the whole fuel is spent within about
  /// two seconds whatever a template does: a step for each expression, statement, item, comparison
  /// and object that is made, and one for so many bytes as are copied, searched or mapped in that
  /// time.
  absl::Status Charge(int64_t steps);

  /// The same for looking a key up in a dict, or for setting it.
  absl::Status ChargeKey(const Dict& dict, const Value& key) { return Charge(dict.Work(key)); }

  /// A string. Fails if it is longer than a string may be or memory is used up.
  absl::StatusOr<Value> String(Text text, bool markup = false);
  absl::StatusOr<Value> String(std::string bytes, bool trusted);

  absl::StatusOr<Value> List(std::vector<Value> items) {
    return MakeSequence(Type::kList, std::move(items));
  }
  absl::StatusOr<Value> Tuple(std::vector<Value> items) {
    return MakeSequence(Type::kTuple, std::move(items));
  }

  /// A generator that reads `source`.
  absl::StatusOr<Value> Iterator(NextValue next, const Value& source);

  /// Takes a dict or namespace that has been filled.
  absl::StatusOr<Value> Take(std::unique_ptr<Dict> dict);

  /// Any other object, made from its constructor's arguments.
  template <typename T, typename... Args>
  absl::StatusOr<Value> Make(Args&&... args) {
    TANDEM_RETURN_IF_ERROR(Charge(1));
    TANDEM_RETURN_IF_ERROR(Reserve(sizeof(T) + kObjectOverhead));
    objects_.push_back(std::make_unique<T>(std::forward<Args>(args)...));
    return Value::Of(objects_.back().get());
  }

  /// Memory that one more entry of a dict takes, its index included.
  static constexpr size_t kDictEntryBytes = sizeof(Dict::Entry) + sizeof(Value) + 64;

  /// Accounts for `bytes` more that live until the end.
  absl::Status Reserve(size_t bytes);

  /// Fails if a list of `items` could not be made: asked before it is filled.
  absl::Status CheckListSize(uint64_t items) const;

  /// Fails if a string of `bytes` could not be made: asked before work that builds one.
  absl::Status CheckStringSize(size_t bytes) const;

 private:
  static constexpr size_t kObjectOverhead = 32;

  absl::StatusOr<Value> MakeSequence(Type type, std::vector<Value> items);
  absl::Status CheckDepth(int depth) const;

  Limits limits_;
  int64_t used_steps_ = 0;
  size_t live_bytes_ = 0;
  std::vector<std::unique_ptr<Object>> objects_;
};

}  // namespace tandem::frontend::jinja
