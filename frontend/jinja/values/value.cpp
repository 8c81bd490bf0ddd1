#include "frontend/jinja/values/value.h"

#include <algorithm>
#include <limits>

namespace tandem::frontend::jinja {
namespace {

constexpr size_t kIndexedFrom = 16;  // below this many entries a dict is searched linearly

// Equality of hashable values without a budget: their size is bounded by how they were made.
bool KeysEqual(const Value& left, const Value& right) {
  if (left.IsNumber() && right.IsNumber()) {
    return left.IsIntegral() && right.IsIntegral() ? left.integer() == right.integer()
                                                   : left.number() == right.number();
  }
  if (left.type() != right.type()) return false;
  switch (left.type()) {
    case Type::kUndefined:
    case Type::kNone:
      return true;
    case Type::kString:
      return left.bytes() == right.bytes();
    case Type::kTuple:
      return std::equal(left.as<Sequence>().items.begin(), left.as<Sequence>().items.end(),
                        right.as<Sequence>().items.begin(), right.as<Sequence>().items.end(),
                        KeysEqual);
    default:
      return left.object() == right.object();
  }
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
    const auto found = string_index_.find(key);
    return found == string_index_.end() ? entries_.size() : found->second;
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
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const Entry& entry) { return KeysEqual(entry.first, key); });
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

void Dict::Set(const Value& key, Value value) {
  depth_ = std::max({depth_, Depth(key) + 1, Depth(value) + 1});
  const size_t index = IndexOf(key);
  if (index < entries_.size()) {
    entries_[index].second = std::move(value);
    return;
  }
  entries_.emplace_back(key, std::move(value));
  if (entries_.size() == kIndexedFrom) {
    for (size_t entry = 0; entry < entries_.size(); ++entry) {
      if (entries_[entry].first.IsString()) {
        string_index_.emplace(entries_[entry].first.bytes(), entry);
      }
    }
  } else if (entries_.size() > kIndexedFrom && key.IsString()) {
    string_index_.emplace(key.bytes(), entries_.size() - 1);
  }
}

Sequence::Sequence(Type type, std::vector<Value> members)
    : Object(type), items(std::move(members)), depth(MaxDepth(items) + 1) {}

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

bool IsHashable(const Value& value) {
  switch (value.type()) {
    case Type::kList:
    case Type::kDict:
    case Type::kDictView:
      return false;
    case Type::kTuple:
      return std::all_of(value.as<Sequence>().items.begin(), value.as<Sequence>().items.end(),
                         IsHashable);
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
      return static_cast<int64_t>(CountCodePoints(value.bytes()));
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
