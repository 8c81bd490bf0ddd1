#include "frontend/jinja/values/compare.h"

#include <algorithm>

#include "frontend/jinja/values/iterate.h"
#include "frontend/jinja/values/search.h"

// Equality, order and membership of values.
namespace tandem::frontend::jinja {
namespace {

bool IsSequence(const Value& value) { return value.is(Type::kList) || value.is(Type::kTuple); }

class Comparer {
 public:
  explicit Comparer(Sandbox& sandbox) : sandbox_(sandbox) {}

  absl::StatusOr<bool> Equal(const Value& left, const Value& right) {
    TANDEM_RETURN_IF_ERROR(sandbox_.Charge(1));
    if (left.IsNumber() && right.IsNumber()) return CompareNumbers(left, right) == Order::kEqual;
    if (left.type() != right.type()) return false;
    switch (left.type()) {
      case Type::kUndefined:
      case Type::kNone:
        return true;
      case Type::kString:
        if (left.text().size() != right.text().size()) return false;
        TANDEM_RETURN_IF_ERROR(ChargeBytes(left, right));
        return left.bytes() == right.bytes();
      case Type::kList:
      case Type::kTuple:
        return EqualSequences(left.as<Sequence>(), right.as<Sequence>());
      case Type::kDict:
        return EqualDicts(left.as<Dict>(), right.as<Dict>());
      case Type::kRange: {
        const Range& one = left.as<Range>();
        const Range& other = right.as<Range>();
        return one.size == other.size && (one.size == 0 || one.start == other.start) &&
               (one.size < 2 || one.step == other.step);
      }
      default:
        return left.object() == right.object();
    }
  }

  absl::StatusOr<Order> Compare(const Value& left, const Value& right, std::string_view operation) {
    TANDEM_RETURN_IF_ERROR(sandbox_.Charge(1));
    for (const Value* value : {&left, &right}) {
      if (value->IsUndefined()) return InvalidArgument("{}", value->reason());
    }
    if (left.IsNumber() && right.IsNumber()) return CompareNumbers(left, right);
    if (left.IsString() && right.IsString()) {
      // The order of UTF-8 bytes is the order of code points.
      TANDEM_RETURN_IF_ERROR(ChargeBytes(left, right));
      const int order = left.bytes().compare(right.bytes());
      return order < 0 ? Order::kLess : order > 0 ? Order::kGreater : Order::kEqual;
    }
    if (IsSequence(left) && left.type() == right.type()) {
      const std::vector<Value>& one = left.as<Sequence>().items;
      const std::vector<Value>& other = right.as<Sequence>().items;
      for (size_t index = 0; index < std::min(one.size(), other.size()); ++index) {
        TANDEM_ASSIGN_OR_RETURN(const bool same, Equal(one[index], other[index]));
        if (!same) return Compare(one[index], other[index], operation);
      }
      return CompareNumbers(Value::Int(static_cast<int64_t>(one.size())),
                            Value::Int(static_cast<int64_t>(other.size())));
    }
    return InvalidArgument("'{}' not supported between instances of '{}' and '{}'", operation,
                           TypeName(left), TypeName(right));
  }

 private:
  // Two strings are compared as far as the shorter one goes.
  absl::Status ChargeBytes(const Value& left, const Value& right) {
    constexpr size_t kBytesPerStep = 64;
    const size_t bytes = std::min(left.text().size(), right.text().size());
    return sandbox_.Charge(static_cast<int64_t>(bytes / kBytesPerStep));
  }

  absl::StatusOr<bool> EqualSequences(const Sequence& left, const Sequence& right) {
    if (left.items.size() != right.items.size()) return false;
    for (size_t index = 0; index < left.items.size(); ++index) {
      TANDEM_ASSIGN_OR_RETURN(const bool same, Equal(left.items[index], right.items[index]));
      if (!same) return false;
    }
    return true;
  }

  absl::StatusOr<bool> EqualDicts(const Dict& left, const Dict& right) {
    if (left.size() != right.size()) return false;
    for (const Dict::Entry& entry : left.entries()) {
      TANDEM_RETURN_IF_ERROR(sandbox_.Charge(2));
      TANDEM_RETURN_IF_ERROR(sandbox_.ChargeKey(right, entry.first));
      const Value* other = right.Find(entry.first);
      if (other == nullptr) return false;
      TANDEM_ASSIGN_OR_RETURN(const bool same, Equal(entry.second, *other));
      if (!same) return false;
    }
    return true;
  }

  Sandbox& sandbox_;
};

}  // namespace

absl::StatusOr<bool> Equal(Sandbox& sandbox, const Value& left, const Value& right) {
  return Comparer(sandbox).Equal(left, right);
}

absl::StatusOr<Order> Compare(Sandbox& sandbox, const Value& left, const Value& right,
                              std::string_view operation) {
  return Comparer(sandbox).Compare(left, right, operation);
}

absl::StatusOr<bool> Contains(Sandbox& sandbox, const Value& container, const Value& member) {
  if (container.IsString()) {
    if (!member.IsString()) {
      return InvalidArgument("'in <string>' requires string as left operand, not {}",
                             TypeName(member));
    }
    TANDEM_ASSIGN_OR_RETURN(const TextSearch search,
                            TextSearch::Make(sandbox, member.bytes(), container.text().size()));
    return search.First(container.bytes()) != TextSearch::kNone;
  }
  if (container.is(Type::kDict) ||
      (container.is(Type::kDictView) && container.as<DictView>().part == DictView::Part::kKeys)) {
    if (!IsHashable(member)) return InvalidArgument("unhashable type: '{}'", TypeName(member));
    const Dict& dict =
        container.is(Type::kDict) ? container.as<Dict>() : container.as<DictView>().dict;
    TANDEM_RETURN_IF_ERROR(sandbox.ChargeKey(dict, member));
    return dict.Find(member) != nullptr;
  }
  if (container.is(Type::kRange) && member.IsIntegral()) {
    return container.as<Range>().Contains(member.integer());
  }
  if (!IsIterable(container)) {
    return InvalidArgument("argument of type '{}' is not iterable", TypeName(container));
  }
  TANDEM_ASSIGN_OR_RETURN(NextValue next, Iterate(sandbox, container));
  while (true) {
    TANDEM_ASSIGN_OR_RETURN(std::optional<Value> item, next());
    if (!item) return false;
    TANDEM_ASSIGN_OR_RETURN(const bool same, Equal(sandbox, *item, member));
    if (same) return true;
  }
}

}  // namespace tandem::frontend::jinja
