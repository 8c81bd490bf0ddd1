#include <algorithm>
#include <utility>

#include "frontend/jinja/builtins/builtins.h"
#include "frontend/jinja/builtins/operators.h"
#include "frontend/jinja/values/compare.h"
#include "frontend/jinja/values/print.h"
#include "frontend/jinja/values/unicode.h"

// What may stand after "is".
namespace tandem::frontend::jinja {
namespace {

using Result = absl::StatusOr<bool>;

absl::StatusOr<Value> OneArgument(std::string_view test, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound, Bind(test, arguments, {"other"}, 1));
  return bound.Get(0);
}

// Tests of the type alone.
template <typename Predicate>
Result Check(const Arguments& arguments, Predicate predicate) {
  TANDEM_RETURN_IF_ERROR(Bind("test", arguments, {}, 0).status());
  return predicate();
}

Result Remainder(Context& context, const Value& value, const Value& divisor, int64_t wanted) {
  TANDEM_ASSIGN_OR_RETURN(const Value rest, Binary(context.sandbox(), "%", value, divisor));
  return Equal(context.sandbox(), rest, Value::Int(wanted));
}

Result TestOdd(Context& context, const Value& value, const Arguments&) {
  return Remainder(context, value, Value::Int(2), 1);
}
Result TestEven(Context& context, const Value& value, const Arguments&) {
  return Remainder(context, value, Value::Int(2), 0);
}
Result TestDivisibleBy(Context& context, const Value& value, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const Value divisor, OneArgument("divisibleby", arguments));
  return Remainder(context, value, divisor, 0);
}

Result TestDefined(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return !value.IsUndefined(); });
}
Result TestUndefined(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return value.IsUndefined(); });
}
Result TestNone(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return value.IsNone(); });
}
Result TestBoolean(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return value.is(Type::kBool); });
}
Result TestTrue(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return value.is(Type::kBool) && value.boolean(); });
}
Result TestFalse(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return value.is(Type::kBool) && !value.boolean(); });
}
Result TestInteger(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return value.is(Type::kInt); });
}
Result TestFloat(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return value.is(Type::kFloat); });
}
Result TestNumber(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return value.IsNumber(); });
}
Result TestString(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return value.IsString(); });
}
Result TestMapping(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return value.is(Type::kDict); });
}
Result TestIterable(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return IsIterable(value); });
}
Result TestSequence(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] {
    return IsIterable(value) && !value.is(Type::kDictView) && !value.is(Type::kIterator);
  });
}
Result TestCallable(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] {
    return value.IsUndefined() || (value.is(Type::kNative) && value.as<Native>().callable());
  });
}
Result TestEscaped(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return value.IsString() && value.markup(); });
}

// str.islower and str.isupper: some cased character, and none of the other case.
Result HasOnlyCase(Context& context, const Value& value, bool lower) {
  TANDEM_ASSIGN_OR_RETURN(const Text text, ToText(context.sandbox(), value));
  bool found = false;
  for (size_t offset = 0; offset < text.size();) {
    const CodePoint point = DecodeAt(text.bytes(), offset);
    if (IsCased(point.value)) {
      if (lower ? !IsLower(point.value) : !IsUpper(point.value)) return false;
      found = true;
    }
    offset += point.length;
  }
  return found;
}
Result TestLower(Context& context, const Value& value, const Arguments&) {
  return HasOnlyCase(context, value, true);
}
Result TestUpper(Context& context, const Value& value, const Arguments&) {
  return HasOnlyCase(context, value, false);
}

Result TestSameAs(Context& context, const Value& value, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const Value other, OneArgument("sameas", arguments));
  if (value.type() != other.type()) return false;
  switch (value.type()) {
    case Type::kNone:
    case Type::kBool:
    case Type::kInt:
    case Type::kFloat:
    case Type::kString:
      return Equal(context.sandbox(), value, other);
    case Type::kUndefined:
      return false;
    default:
      return value.object() == other.object();
  }
}

Result TestIn(Context& context, const Value& value, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const Value container, OneArgument("in", arguments));
  return Contains(context.sandbox(), container, value);
}
Result TestEqual(Context& context, const Value& value, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const Value other, OneArgument("eq", arguments));
  return Equal(context.sandbox(), value, other);
}
Result TestNotEqual(Context& context, const Value& value, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const bool same, TestEqual(context, value, arguments));
  return !same;
}

absl::StatusOr<Order> Ordered(Context& context, const Value& value, const Arguments& arguments,
                              std::string_view operation) {
  TANDEM_ASSIGN_OR_RETURN(const Value other, OneArgument(operation, arguments));
  return Compare(context.sandbox(), value, other, operation);
}
Result TestLess(Context& context, const Value& value, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const Order order, Ordered(context, value, arguments, "<"));
  return order == Order::kLess;
}
Result TestGreater(Context& context, const Value& value, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const Order order, Ordered(context, value, arguments, ">"));
  return order == Order::kGreater;
}
Result TestLessEqual(Context& context, const Value& value, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const Order order, Ordered(context, value, arguments, "<="));
  return order == Order::kLess || order == Order::kEqual;
}
Result TestGreaterEqual(Context& context, const Value& value, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const Order order, Ordered(context, value, arguments, ">="));
  return order == Order::kGreater || order == Order::kEqual;
}

Result TestIsFilter(Context&, const Value& value, const Arguments&) {
  return value.IsString() && FindFilter(value.bytes()) != nullptr;
}
Result TestIsTest(Context&, const Value& value, const Arguments&) {
  return value.IsString() && FindTest(value.bytes()) != nullptr;
}

constexpr std::pair<std::string_view, Test> kTests[] = {
    {"odd", TestOdd},
    {"even", TestEven},
    {"divisibleby", TestDivisibleBy},
    {"defined", TestDefined},
    {"undefined", TestUndefined},
    {"filter", TestIsFilter},
    {"test", TestIsTest},
    {"none", TestNone},
    {"boolean", TestBoolean},
    {"false", TestFalse},
    {"true", TestTrue},
    {"integer", TestInteger},
    {"float", TestFloat},
    {"lower", TestLower},
    {"upper", TestUpper},
    {"string", TestString},
    {"mapping", TestMapping},
    {"number", TestNumber},
    {"sequence", TestSequence},
    {"iterable", TestIterable},
    {"callable", TestCallable},
    {"sameas", TestSameAs},
    {"escaped", TestEscaped},
    {"in", TestIn},
    {"==", TestEqual},
    {"eq", TestEqual},
    {"equalto", TestEqual},
    {"!=", TestNotEqual},
    {"ne", TestNotEqual},
    {">", TestGreater},
    {"gt", TestGreater},
    {"greaterthan", TestGreater},
    {"ge", TestGreaterEqual},
    {">=", TestGreaterEqual},
    {"<", TestLess},
    {"lt", TestLess},
    {"lessthan", TestLess},
    {"<=", TestLessEqual},
    {"le", TestLessEqual},
};

}  // namespace

Test FindTest(std::string_view name) {
  const auto* const found = std::find_if(std::begin(kTests), std::end(kTests),
                                         [&](const auto& entry) { return entry.first == name; });
  return found == std::end(kTests) ? nullptr : found->second;
}

}  // namespace tandem::frontend::jinja
