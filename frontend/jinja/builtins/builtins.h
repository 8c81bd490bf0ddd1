#pragma once

#include <initializer_list>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "frontend/jinja/builtins/context.h"
#include "frontend/jinja/values/value.h"

/// Filters, tests, methods and functions that templates find.
namespace tandem::frontend::jinja {

/// Arguments in the order of the parameters of what is called.
class BoundArguments {
 public:
  explicit BoundArguments(std::vector<std::optional<Value>> values) : values_(std::move(values)) {}

  bool Has(size_t index) const { return values_[index].has_value(); }
  /// The argument that was given, or None.
  Value Get(size_t index) const { return values_[index].value_or(Value()); }
  /// bool() of the argument, or `missing`.
  bool Truth(size_t index, bool missing) const {
    return Has(index) ? IsTruthy(*values_[index]) : missing;
  }
  /// An int, or `missing` if left out. Fails on another type.
  absl::StatusOr<int64_t> Integer(size_t index, int64_t missing) const;

 private:
  std::vector<std::optional<Value>> values_;
};

/// Lines arguments up with parameters, of which the first `required` must be given. `callee` is
/// named in errors.
absl::StatusOr<BoundArguments> Bind(std::string_view callee, const Arguments& arguments,
                                    std::initializer_list<std::string_view> parameters,
                                    size_t required);

using Filter = absl::StatusOr<Value> (*)(Context&, const Value& subject, const Arguments&);
using Test = absl::StatusOr<bool> (*)(Context&, const Value& subject, const Arguments&);
using Method = absl::StatusOr<Value> (*)(Context&, const Value& self, const Arguments&);

/// What a name stands for; null if nothing has it.
Filter FindFilter(std::string_view name);
Test FindTest(std::string_view name);

/// The method of a string, list, tuple or dict; null if it has none of that name.
Method FindMethod(const Value& self, std::string_view name);
/// Whether Python's type has a method of that name which changes the object: the sandbox refuses
/// these.
bool IsMutatingMethod(const Value& self, std::string_view name);

// The parts of the tables above, by file.
Filter FindSequenceFilter(std::string_view name);
Method FindStringMethod(std::string_view name);

struct GlobalFunction {
  const char* name;
  absl::StatusOr<Value> (*body)(Context&, const Arguments&);
};
/// range, dict, namespace, cycler, joiner, raise_exception and strftime_now.
std::span<const GlobalFunction> GlobalFunctions();

// What filters and methods share.

/// Fuel for looking at each character of a text, and writing another for it.
absl::Status ChargeMapping(Sandbox& sandbox, const Text& text);

/// Sets the entries of one dict in another, for their fuel.
absl::Status CopyEntries(Sandbox& sandbox, const Dict& from, Dict& to);

/// str.strip and its kin: `characters` is None for white space.
absl::StatusOr<Value> Strip(Context& context, const Value& text, const Value& characters, bool left,
                            bool right);
/// str.replace; a negative count replaces all.
absl::StatusOr<Value> Replace(Context& context, const Value& text, const Value& from,
                              const Value& to, int64_t count);
}  // namespace tandem::frontend::jinja
