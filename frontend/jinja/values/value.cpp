#include "frontend/jinja/values/value.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <compare>
#include <limits>

namespace tandem::frontend::jinja {
namespace {

constexpr size_t kIndexedFrom = 16;  // below this many entries a dict is searched linearly

Order OrderOf(std::partial_ordering order) {
  if (order == std::partial_ordering::less) return Order::kLess;
  if (order == std::partial_ordering::greater) return Order::kGreater;
  return order == std::partial_ordering::equivalent ? Order::kEqual : Order::kUnordered;
}

// An int64 against a double without losing bits of either.
Order CompareMixed(int64_t left, double right) {
  if (std::isnan(right)) return Order::kUnordered;
  constexpr double kTwoTo63 = 9223372036854775808.0;
  if (right >= kTwoTo63) return Order::kLess;
  if (right < -kTwoTo63) return Order::kGreater;
  const double whole = std::floor(right);
  const auto rounded = static_cast<int64_t>(whole);
  if (left != rounded) return left < rounded ? Order::kLess : Order::kGreater;
  return whole < right ? Order::kLess : Order::kEqual;
}

// Numbers of all types are of one kind.
int KeyKind(const Value& value) {
  return static_cast<int>(value.IsNumber() ? Type::kInt : value.type());
}

// NaN is behind all other numbers, and equal to itself.
int KeyOrderOfNumbers(const Value& left, const Value& right) {
  switch (CompareNumbers(left, right)) {
    case Order::kLess:
      return -1;
    case Order::kGreater:
      return 1;
    case Order::kEqual:
      return 0;
    case Order::kUnordered:
      return int{std::isnan(left.number())} - int{std::isnan(right.number())};
  }
  return 0;
}

// Below 0, 0 or above it. Of hashable values.
int KeyOrder(const Value& left, const Value& right) {
  if (left.IsNumber() && right.IsNumber()) return KeyOrderOfNumbers(left, right);
  if (left.type() != right.type()) return KeyKind(left) - KeyKind(right);
  switch (left.type()) {
    case Type::kUndefined:
    case Type::kNone:
      return 0;
    case Type::kString:
      return left.bytes().compare(right.bytes());
    case Type::kTuple: {
      const std::vector<Value>& one = left.as<Sequence>().items;
      const std::vector<Value>& other = right.as<Sequence>().items;
      for (size_t index = 0; index < std::min(one.size(), other.size()); ++index) {
        const int order = KeyOrder(one[index], other[index]);
        if (order != 0) return order;
      }
      return int{one.size() > other.size()} - int{one.size() < other.size()};
    }
    default: {
      const std::less<Object*> before;
      return int{before(right.object(), left.object())} -
             int{before(left.object(), right.object())};
    }
  }
}

constexpr size_t kComparedBytesPerStep = 16;  // of keys, which are compared with several others

int64_t WorkOf(const Value& value) {
  switch (value.type()) {
    case Type::kString:
      return 1 + static_cast<int64_t>(value.text().size() / kComparedBytesPerStep);
    case Type::kList:
    case Type::kTuple:
      return value.as<Sequence>().work;
    default:
      return 1;
  }
}

int64_t WorkOfAll(const std::vector<Value>& items) {
  int64_t work = 1;
  for (const Value& item : items) work = std::min(work + WorkOf(item), Sequence::kMostWork);
  return work;
}

int MaxDepth(const std::vector<Value>& items) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, Depth(item));
  return depth;
}

int64_t RangeSize(int64_t start, int64_t stop, int64_t step) {
  if (step > 0 ? start >= stop : start <= stop) return 0;
  const auto first = static_cast<uint64_t>(start);
  const auto last = static_cast<uint64_t>(stop);
  const uint64_t distance = step > 0 ? last - first : first - last;
  const uint64_t stride = step > 0 ? static_cast<uint64_t>(step) : 0 - static_cast<uint64_t>(step);
  const uint64_t steps = (distance - 1) / stride;
  constexpr auto kMost = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  return static_cast<int64_t>(std::min(steps, kMost - 1) + 1);
}

}  // namespace

Type Value::type() const {
  switch (data_.index()) {
    case 0:
      return Type::kNone;
    case 1:
      return Type::kUndefined;
    case 2:
      return Type::kBool;
    case 3:
      return Type::kInt;
    case 4:
      return Type::kFloat;
    case 5:
      return Type::kString;
    default:
      return object()->type();
  }
}

size_t Dict::IndexOfString(std::string_view key) const {
  if (entries_.size() >= kIndexedFrom) {
    const auto found = index_.find(key);
    return found == index_.end() ? entries_.size() : found->second;
  }
  size_t index = 0;
  while (index < entries_.size() &&
         !(entries_[index].first.IsString() && entries_[index].first.bytes() == key)) {
    ++index;
  }
  return index;
}

size_t Dict::IndexOf(const Value& key) const {
  if (key.IsString()) return IndexOfString(key.bytes());
  if (entries_.size() >= kIndexedFrom) {
    const auto found = index_.find(key);
    return found == index_.end() ? entries_.size() : found->second;
  }
  const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) {
    return KeyOrder(entry.first, key) == 0;
  });
  return static_cast<size_t>(found - entries_.begin());
}

const Value* Dict::Find(std::string_view key) const {
  const size_t index = IndexOfString(key);
  return index < entries_.size() ? &entries_[index].second : nullptr;
}

const Value* Dict::Find(const Value& key) const {
  const size_t index = IndexOf(key);
  return index < entries_.size() ? &entries_[index].second : nullptr;
}

int64_t Dict::Work(const Value& key) const {
  // A search in a large index waits for memory.
  const int64_t levels = entries_.size() < kIndexedFrom ? 0 : std::bit_width(entries_.size());
  return levels / 4 + (key.is(Type::kTuple) ? 2 * WorkOf(key) : WorkOf(key) - 1);
}

void Dict::Set(const Value& key, Value value) {
  depth_ = std::max({depth_, Depth(key) + 1, Depth(value) + 1});
  size_t index = entries_.size();
  if (index < kIndexedFrom) {
    index = IndexOf(key);
  } else {
    index = index_.emplace(key, index).first->second;
  }
  if (index < entries_.size()) {
    entries_[index].second = std::move(value);
    return;
  }
  entries_.emplace_back(key, std::move(value));
  if (entries_.size() != kIndexedFrom) return;
  for (size_t entry = 0; entry < kIndexedFrom; ++entry) {
    index_.emplace(entries_[entry].first, entry);
  }
}

bool KeyLess::operator()(const Value& left, const Value& right) const {
  return KeyOrder(left, right) < 0;
}
bool KeyLess::operator()(const Value& left, std::string_view right) const {
  return left.IsString() ? left.bytes() < right : KeyKind(left) < static_cast<int>(Type::kString);
}
bool KeyLess::operator()(std::string_view left, const Value& right) const {
  return right.IsString() ? left < right.bytes() : static_cast<int>(Type::kString) < KeyKind(right);
}

Sequence::Sequence(Type type, std::vector<Value> members)
    : Object(type),
      items(std::move(members)),
      depth(MaxDepth(items) + 1),
      hashable(std::all_of(items.begin(), items.end(), IsHashable)),
      work(WorkOfAll(items)) {}

Range::Range(int64_t first, int64_t limit, int64_t stride)
    : Object(Type::kRange),
      start(first),
      stop(limit),
      step(stride),
      size(RangeSize(first, limit, stride)) {}

bool Range::Contains(int64_t value) const {
  if (size == 0) return false;
  const int64_t last = At(size - 1);
  const bool inside = step > 0 ? value >= start && value <= last : value <= start && value >= last;
  const auto distance = [](int64_t from, int64_t to) {
    return static_cast<uint64_t>(to) - static_cast<uint64_t>(from);
  };
  return inside && (step > 0 ? distance(start, value) % static_cast<uint64_t>(step)
                             : distance(value, start) % (0 - static_cast<uint64_t>(step))) == 0;
}

absl::StatusOr<Value> Native::Call(Context&, const Arguments&) {
  return InvalidArgument("{} is not callable", Describe());
}
absl::StatusOr<std::optional<Value>> Native::Attribute(Context&, std::string_view) {
  return std::optional<Value>();
}
absl::StatusOr<std::optional<int64_t>> Native::Length() { return std::optional<int64_t>(); }

std::string_view TypeName(const Value& value) {
  switch (value.type()) {
    case Type::kUndefined:
      return "Undefined";
    case Type::kNone:
      return "NoneType";
    case Type::kBool:
      return "bool";
    case Type::kInt:
      return "int";
    case Type::kFloat:
      return "float";
    case Type::kString:
      return "str";
    case Type::kList:
      return "list";
    case Type::kTuple:
      return "tuple";
    case Type::kDict:
      return "dict";
    case Type::kNamespace:
      return "Namespace";
    case Type::kRange:
      return "range";
    case Type::kDictView:
      return "dict view";
    case Type::kIterator:
      return "generator";
    case Type::kNative:
      return "function";
  }
  return "object";
}

int Depth(const Value& value) {
  switch (value.type()) {
    case Type::kList:
    case Type::kTuple:
      return value.as<Sequence>().depth;
    case Type::kDict:
      return value.as<Dict>().depth();
    case Type::kDictView:
      return value.as<DictView>().dict.depth() + 1;
    case Type::kIterator:
      return value.as<Iterator>().depth;
    default:
      return 0;
  }
}

Order CompareNumbers(const Value& left, const Value& right) {
  if (left.IsIntegral() && right.IsIntegral()) return OrderOf(left.integer() <=> right.integer());
  if (left.IsIntegral()) return CompareMixed(left.integer(), right.number());
  if (right.IsIntegral()) {
    const Order mirrored = CompareMixed(right.integer(), left.number());
    return mirrored == Order::kLess      ? Order::kGreater
           : mirrored == Order::kGreater ? Order::kLess
                                         : mirrored;
  }
  return OrderOf(left.number() <=> right.number());
}

bool IsHashable(const Value& value) {
  switch (value.type()) {
    case Type::kList:
    case Type::kDict:
    case Type::kDictView:
      return false;
    case Type::kTuple:
      return value.as<Sequence>().hashable;
    default:
      return true;
  }
}

bool IsTruthy(const Value& value) {
  switch (value.type()) {
    case Type::kUndefined:
    case Type::kNone:
      return false;
    case Type::kBool:
      return value.boolean();
    case Type::kInt:
      return value.integer() != 0;
    case Type::kFloat:
      return value.number() != 0.0;
    case Type::kString:
      return !value.text().empty();
    case Type::kList:
    case Type::kTuple:
      return !value.as<Sequence>().items.empty();
    case Type::kDict:
      return value.as<Dict>().size() != 0;
    case Type::kRange:
      return value.as<Range>().size != 0;
    case Type::kDictView:
      return value.as<DictView>().dict.size() != 0;
    case Type::kNamespace:
    case Type::kIterator:
    case Type::kNative:
      return true;
  }
  return true;
}

absl::StatusOr<int64_t> Length(const Value& value) {
  switch (value.type()) {
    case Type::kUndefined:
      return 0;
    case Type::kString:
      return static_cast<int64_t>(value.text().CodePoints());
    case Type::kList:
    case Type::kTuple:
      return static_cast<int64_t>(value.as<Sequence>().items.size());
    case Type::kDict:
      return static_cast<int64_t>(value.as<Dict>().size());
    case Type::kRange:
      return value.as<Range>().size;
    case Type::kDictView:
      return static_cast<int64_t>(value.as<DictView>().dict.size());
    case Type::kNative: {
      TANDEM_ASSIGN_OR_RETURN(const std::optional<int64_t> length, value.as<Native>().Length());
      if (length) return *length;
      break;
    }
    default:
      break;
  }
  return InvalidArgument("object of type '{}' has no len()", TypeName(value));
}

bool IsIterable(const Value& value) {
  switch (value.type()) {
    case Type::kUndefined:
    case Type::kString:
    case Type::kList:
    case Type::kTuple:
    case Type::kDict:
    case Type::kRange:
    case Type::kDictView:
    case Type::kIterator:
      return true;
    default:
      return false;
  }
}

bool AllTrusted(const Value& value) {
  switch (value.type()) {
    case Type::kNone:
    case Type::kBool:
    case Type::kInt:
    case Type::kFloat:
      return value.trusted();
    case Type::kString:
      return value.text().AllTrusted();
    default:
      return false;
  }
}

}  // namespace tandem::frontend::jinja
