#include "frontend/jinja/builtins/operators.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "frontend/jinja/builtins/format.h"
#include "frontend/jinja/values/print.h"

namespace tandem::frontend::jinja {
namespace {

absl::Status Unsupported(std::string_view symbol, const Value& left, const Value& right) {
  return InvalidArgument("unsupported operand types for {}: '{}' and '{}'", symbol, TypeName(left),
                         TypeName(right));
}

absl::Status Overflow(std::string_view symbol) {
  return InvalidArgument("the result of {} does not fit a 64-bit integer", symbol);
}

absl::Status DivisionByZero(std::string_view symbol) {
  return InvalidArgument("{}: division by zero", symbol);
}

// Rounds towards minus infinity; the remainder has the sign of the divisor. INT64_MIN / -1 is
// excluded.
std::pair<int64_t, int64_t> FloorDivide(int64_t left, int64_t right) {
  int64_t quotient = left / right;
  int64_t remainder = left % right;
  if (remainder != 0 && (remainder < 0) != (right < 0)) {
    remainder += right;
    --quotient;
  }
  return {quotient, remainder};
}

double FloatModulo(double left, double right) {
  double remainder = std::fmod(left, right);
  if (remainder != 0.0) {
    if ((remainder < 0) != (right < 0)) remainder += right;
    return remainder;
  }
  return std::copysign(0.0, right);
}

double FloatFloorDivide(double left, double right) {
  const double remainder = FloatModulo(left, right);
  const double quotient = (left - remainder) / right;
  if (quotient == 0.0) return std::copysign(0.0, left / right);
  const double floored = std::floor(quotient);
  return quotient - floored > 0.5 ? floored + 1.0 : floored;
}

absl::StatusOr<Value> IntegerPower(int64_t base, int64_t exponent, bool trusted) {
  if (exponent < 0) {
    if (base == 0) return DivisionByZero("**");
    return Value::Float(std::pow(static_cast<double>(base), static_cast<double>(exponent)),
                        trusted);
  }
  int64_t result = 1;
  int64_t square = base;
  bool square_overflows = false;
  for (int64_t rest = exponent; rest != 0; rest >>= 1) {
    if (rest & 1) {
      if (square_overflows || __builtin_mul_overflow(result, square, &result)) {
        return Overflow("**");
      }
    }
    square_overflows = square_overflows || __builtin_mul_overflow(square, square, &square);
  }
  return Value::Int(result, trusted);
}

absl::StatusOr<Value> IntegerArithmetic(std::string_view symbol, int64_t left, int64_t right,
                                        bool trusted) {
  int64_t result = 0;
  bool overflow = false;
  if (symbol == "+") {
    overflow = __builtin_add_overflow(left, right, &result);
  } else if (symbol == "-") {
    overflow = __builtin_sub_overflow(left, right, &result);
  } else if (symbol == "*") {
    overflow = __builtin_mul_overflow(left, right, &result);
  } else if (symbol == "**") {
    return IntegerPower(left, right, trusted);
  } else if (right == 0) {
    return DivisionByZero(symbol);
  } else if (symbol == "/") {
    return Value::Float(static_cast<double>(left) / static_cast<double>(right), trusted);
  } else if (right == -1) {
    overflow = symbol == "//" && __builtin_sub_overflow(int64_t{0}, left, &result);
  } else {
    const auto [quotient, remainder] = FloorDivide(left, right);
    result = symbol == "//" ? quotient : remainder;
  }
  if (overflow) return Overflow(symbol);
  return Value::Int(result, trusted);
}

absl::StatusOr<Value> FloatArithmetic(std::string_view symbol, double left, double right,
                                      bool trusted) {
  if (symbol == "+") return Value::Float(left + right, trusted);
  if (symbol == "-") return Value::Float(left - right, trusted);
  if (symbol == "*") return Value::Float(left * right, trusted);
  if (symbol == "**") {
    if (left == 0.0 && right < 0.0) return DivisionByZero(symbol);
    if (left < 0.0 && std::floor(right) != right) {
      return InvalidArgument(
          "a negative number to a broken power is a complex number, which is "
          "not supported");
    }
    const double power = std::pow(left, right);
    if (std::isinf(power) && !std::isinf(left) && !std::isinf(right)) {
      return InvalidArgument("the result of ** does not fit a float");
    }
    return Value::Float(power, trusted);
  }
  if (right == 0.0) return DivisionByZero(symbol);
  if (symbol == "/") return Value::Float(left / right, trusted);
  return Value::Float(symbol == "//" ? FloatFloorDivide(left, right) : FloatModulo(left, right),
                      trusted);
}

absl::StatusOr<Value> Concatenate(Sandbox& sandbox, const Value& left, const Value& right) {
  if (left.IsString()) {
    TANDEM_RETURN_IF_ERROR(sandbox.CheckStringSize(left.text().size() + right.text().size()));
    const bool markup = left.markup() || right.markup();
    Text text;
    for (const Value* part : {&left, &right}) {
      if (markup) {
        TANDEM_ASSIGN_OR_RETURN(const Text escaped, EscapedText(sandbox, *part));
        text.Append(escaped);
      } else {
        text.Append(part->text());
      }
    }
    return sandbox.String(std::move(text), markup);
  }
  std::vector<Value> items = left.as<Sequence>().items;
  const std::vector<Value>& more = right.as<Sequence>().items;
  items.insert(items.end(), more.begin(), more.end());
  return left.is(Type::kList) ? sandbox.List(std::move(items)) : sandbox.Tuple(std::move(items));
}

// sequence * count
absl::StatusOr<Value> Repeat(Sandbox& sandbox, const Value& sequence, int64_t count) {
  const auto times = static_cast<uint64_t>(std::max<int64_t>(count, 0));
  const uint64_t size =
      sequence.IsString() ? sequence.text().size() : sequence.as<Sequence>().items.size();
  // A product that leaves 64 bits becomes the largest number, which no limit allows.
  uint64_t total = 0;
  if (__builtin_mul_overflow(size, times, &total)) total = std::numeric_limits<uint64_t>::max();
  TANDEM_RETURN_IF_ERROR(sequence.IsString() ? sandbox.CheckStringSize(total)
                                             : sandbox.CheckListSize(total));
  TANDEM_RETURN_IF_ERROR(sandbox.Charge(static_cast<int64_t>(total / 8)));
  if (sequence.IsString()) {
    Text text;
    for (uint64_t time = 0; size != 0 && time < times; ++time) text.Append(sequence.text());
    return sandbox.String(std::move(text), sequence.markup());
  }
  const std::vector<Value>& items = sequence.as<Sequence>().items;
  std::vector<Value> repeated;
  for (uint64_t time = 0; size != 0 && time < times; ++time) {
    repeated.insert(repeated.end(), items.begin(), items.end());
  }
  return sequence.is(Type::kList) ? sandbox.List(std::move(repeated))
                                  : sandbox.Tuple(std::move(repeated));
}

bool IsRepeatable(const Value& value) {
  return value.IsString() || value.is(Type::kList) || value.is(Type::kTuple);
}

// A bound of a slice: an int, or nothing.
absl::StatusOr<std::optional<int64_t>> Bound(const Value& value) {
  if (value.IsNone()) return std::optional<int64_t>();
  if (value.IsIntegral()) return std::optional<int64_t>(value.integer());
  return InvalidArgument("slice indices must be integers or None, not {}", TypeName(value));
}

/// Fuel for finding code points by their numbers.
absl::Status ChargeWalk(Sandbox& sandbox, const Text& text) {
  constexpr size_t kBytesPerStep = 16;
  return sandbox.Charge(text.HasLongCodePoints() ? static_cast<int64_t>(text.size() / kBytesPerStep)
                                                 : 0);
}

/// picked: code points of the text.
Text SliceText(const Text& text, const Range& picked) {
  if (picked.size == 0) return {};
  if (picked.step == 1) {
    return text.Slice(text.OffsetOf(static_cast<size_t>(picked.start)),
                      text.OffsetOf(static_cast<size_t>(picked.stop)));
  }
  const bool walks = text.HasLongCodePoints();
  const std::vector<size_t> offsets =
      walks ? CodePointOffsets(text.bytes()) : std::vector<size_t>();
  Text slice;
  for (int64_t index = 0; index < picked.size; ++index) {
    const auto at = static_cast<size_t>(picked.At(index));
    slice.Append(text, walks ? offsets[at] : at, walks ? offsets[at + 1] : at + 1);
  }
  return slice;
}

}  // namespace

absl::StatusOr<Value> Binary(Sandbox& sandbox, std::string_view symbol, const Value& left,
                             const Value& right) {
  for (const Value* operand : {&left, &right}) {
    if (operand->IsUndefined() && !(symbol == "%" && left.IsString())) {
      return InvalidArgument("{}", operand->reason());
    }
  }
  TANDEM_RETURN_IF_ERROR(sandbox.Charge(1));
  if (left.IsNumber() && right.IsNumber()) {
    const bool trusted = left.trusted() && right.trusted();
    return left.IsIntegral() && right.IsIntegral()
               ? IntegerArithmetic(symbol, left.integer(), right.integer(), trusted)
               : FloatArithmetic(symbol, left.number(), right.number(), trusted);
  }
  if (symbol == "+" && IsRepeatable(left) && left.type() == right.type()) {
    return Concatenate(sandbox, left, right);
  }
  if (symbol == "*" && IsRepeatable(left) && right.IsIntegral()) {
    return Repeat(sandbox, left, right.integer());
  }
  if (symbol == "*" && left.IsIntegral() && IsRepeatable(right)) {
    return Repeat(sandbox, right, left.integer());
  }
  if (symbol == "%" && left.IsString()) return FormatPercent(sandbox, left, right);
  return Unsupported(symbol, left, right);
}

absl::StatusOr<Value> Negate(const Value& operand) {
  if (operand.is(Type::kFloat)) return Value::Float(-operand.number(), operand.trusted());
  if (operand.IsIntegral()) {
    if (operand.integer() == std::numeric_limits<int64_t>::min()) return Overflow("-");
    return Value::Int(-operand.integer(), operand.trusted());
  }
  return InvalidArgument("bad operand type for unary -: '{}'", TypeName(operand));
}

absl::StatusOr<Value> Plus(const Value& operand) {
  if (operand.is(Type::kFloat)) return operand;
  if (operand.IsIntegral()) return Value::Int(operand.integer(), operand.trusted());
  return InvalidArgument("bad operand type for unary +: '{}'", TypeName(operand));
}

absl::StatusOr<Value> Slice(Sandbox& sandbox, const Value& object, const Value& start,
                            const Value& stop, const Value& step) {
  if (object.IsUndefined()) return InvalidArgument("{}", object.reason());
  if (!IsRepeatable(object) && !object.is(Type::kRange)) {
    return InvalidArgument("'{}' object cannot be sliced", TypeName(object));
  }
  TANDEM_ASSIGN_OR_RETURN(const auto first, Bound(start));
  TANDEM_ASSIGN_OR_RETURN(const auto last, Bound(stop));
  TANDEM_ASSIGN_OR_RETURN(const auto stride_or_none, Bound(step));
  const int64_t stride = stride_or_none.value_or(1);
  if (stride == 0) return InvalidArgument("slice step cannot be zero");
  TANDEM_ASSIGN_OR_RETURN(const int64_t size, Length(object));
  const auto clamp = [&](std::optional<int64_t> bound, int64_t missing) {
    if (!bound) return missing;
    const int64_t index = *bound < 0 ? std::max<int64_t>(*bound, -size - 1) + size : *bound;
    return std::clamp<int64_t>(index, stride < 0 ? -1 : 0, stride < 0 ? size - 1 : size);
  };
  const int64_t begin = clamp(first, stride < 0 ? size - 1 : 0);
  const int64_t end = clamp(last, stride < 0 ? -1 : size);
  const Range picked(begin, end, stride);
  TANDEM_RETURN_IF_ERROR(sandbox.Charge(stride == 1 ? 0 : picked.size / 4));
  if (object.is(Type::kRange)) {
    const Range& range = object.as<Range>();
    int64_t combined = 0;
    if (__builtin_mul_overflow(range.step, stride, &combined)) return Overflow("slicing");
    return sandbox.Make<Range>(range.At(begin), range.At(end), combined);
  }
  if (object.IsString()) {
    TANDEM_RETURN_IF_ERROR(ChargeWalk(sandbox, object.text()));
    return sandbox.String(SliceText(object.text(), picked), object.markup());
  }
  const std::vector<Value>& items = object.as<Sequence>().items;
  std::vector<Value> result;
  for (int64_t index = 0; index < picked.size; ++index) {
    result.push_back(items[static_cast<size_t>(picked.At(index))]);
  }
  return object.is(Type::kList) ? sandbox.List(std::move(result))
                                : sandbox.Tuple(std::move(result));
}

absl::StatusOr<std::optional<Value>> Index(Sandbox& sandbox, const Value& sequence, int64_t index) {
  TANDEM_ASSIGN_OR_RETURN(const int64_t size, Length(sequence));
  if (index < -size || index >= size) return std::optional<Value>();
  const int64_t at = index < 0 ? index + size : index;
  if (sequence.is(Type::kRange)) {
    return std::optional<Value>(Value::Int(sequence.as<Range>().At(at), true));
  }
  if (sequence.IsString()) {
    TANDEM_RETURN_IF_ERROR(ChargeWalk(sandbox, sequence.text()));
    const size_t offset = sequence.text().OffsetOf(static_cast<size_t>(at));
    const size_t end = offset + DecodeAt(sequence.bytes(), offset).length;
    TANDEM_ASSIGN_OR_RETURN(Value character,
                            sandbox.String(sequence.text().Slice(offset, end), sequence.markup()));
    return std::optional<Value>(std::move(character));
  }
  return std::optional<Value>(sequence.as<Sequence>().items[static_cast<size_t>(at)]);
}

}  // namespace tandem::frontend::jinja
