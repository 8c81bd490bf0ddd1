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

using TestResult = absl::StatusOr<bool>;

absl::StatusOr<Value> OneArgument(std::string_view test, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound, Bind(test, arguments, {"other"}, 1));
  return bound.Get(0);
}

// Tests of the type alone.
template <typename Predicate>
TestResult Check(const Arguments& arguments, Predicate predicate) {
  TANDEM_RETURN_IF_ERROR(Bind("test", arguments, {}, 0).status());
  return predicate();
}

TestResult Remainder(Context& context, const Value& value, const Value& divisor, int64_t wanted) {
  TANDEM_ASSIGN_OR_RETURN(const Value rest, Binary(context.sandbox(), "%", value, divisor));
  return Equal(context.sandbox(), rest, Value::Int(wanted));
}

TestResult TestOdd(Context& context, const Value& value, const Arguments&) {
  return Remainder(context, value, Value::Int(2), 1);
}
TestResult TestEven(Context& context, const Value& value, const Arguments&) {
  return Remainder(context, value, Value::Int(2), 0);
}
TestResult TestDivisibleBy(Context& context, const Value& value, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const Value divisor, OneArgument("divisibleby", arguments));
  return Remainder(context, value, divisor, 0);
}

TestResult TestDefined(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return !value.IsUndefined(); });
}
TestResult TestUndefined(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return value.IsUndefined(); });
}
TestResult TestNone(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return value.IsNone(); });
}
TestResult TestBoolean(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return value.is(Type::kBool); });
}
TestResult TestTrue(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return value.is(Type::kBool) && value.boolean(); });
}
TestResult TestFalse(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return value.is(Type::kBool) && !value.boolean(); });
}
TestResult TestInteger(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return value.is(Type::kInt); });
}
TestResult TestFloat(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return value.is(Type::kFloat); });
}
TestResult TestNumber(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return value.IsNumber(); });
}
TestResult TestString(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return value.IsString(); });
}
TestResult TestMapping(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return value.is(Type::kDict); });
}
TestResult TestIterable(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return IsIterable(value); });
}
TestResult TestSequence(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] {
    return IsIterable(value) && !value.is(Type::kDictView) && !value.is(Type::kIterator);
  });
}
TestResult TestCallable(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] {
    return value.IsUndefined() || (value.is(Type::kNative) && value.as<Native>().callable());
  });
}
TestResult TestEscaped(Context&, const Value& value, const Arguments& arguments) {
  return Check(arguments, [&] { return value.IsString() && value.markup(); });
}

// str.islower and str.isupper: some cased character, and none of the other case.
TestResult HasOnlyCase(Context& context, const Value& value, bool lower) {
  TANDEM_ASSIGN_OR_RETURN(const Text text, ToText(context.sandbox(), value));
  TANDEM_RETURN_IF_ERROR(ChargeMapping(context.sandbox(), text));
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
TestResult TestLower(Context& context, const Value& value, const Arguments&) {
  return HasOnlyCase(context, value, true);
}
TestResult TestUpper(Context& context, const Value& value, const Arguments&) {
  return HasOnlyCase(context, value, false);
}

TestResult TestSameAs(Context& context, const Value& value, const Arguments& arguments) {
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

TestResult TestIn(Context& context, const Value& value, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const Value container, OneArgument("in", arguments));
  return Contains(context.sandbox(), container, value);
}
TestResult TestEqual(Context& context, const Value& value, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const Value other, OneArgument("eq", arguments));
  return Equal(context.sandbox(), value, other);
}
TestResult TestNotEqual(Context& context, const Value& value, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const bool same, TestEqual(context, value, arguments));
  return !same;
}

absl::StatusOr<Order> Ordered(Context& context, const Value& value, const Arguments& arguments,
                              std::string_view operation) {
  TANDEM_ASSIGN_OR_RETURN(const Value other, OneArgument(operation, arguments));
  return Compare(context.sandbox(), value, other, operation);
}
TestResult TestLess(Context& context, const Value& value, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const Order order, Ordered(context, value, arguments, "<"));
  return order == Order::kLess;
}
TestResult TestGreater(Context& context, const Value& value, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const Order order, Ordered(context, value, arguments, ">"));
  return order == Order::kGreater;
}
TestResult TestLessEqual(Context& context, const Value& value, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const Order order, Ordered(context, value, arguments, "<="));
  return order == Order::kLess || order == Order::kEqual;
}
TestResult TestGreaterEqual(Context& context, const Value& value, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const Order order, Ordered(context, value, arguments, ">="));
  return order == Order::kGreater || order == Order::kEqual;
}

TestResult TestIsFilter(Context&, const Value& value, const Arguments&) {
  return value.IsString() && FindFilter(value.bytes()) != nullptr;
}
TestResult TestIsTest(Context&, const Value& value, const Arguments&) {
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
