#include <algorithm>
#include <utility>

#include "frontend/jinja/builtins/builtins.h"
#include "frontend/jinja/values/compare.h"

// Methods of dicts, lists and tuples.
namespace tandem::frontend::jinja {
namespace {

using Result = absl::StatusOr<Value>;

Result DictGet(Context& context, const Value& self, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("get", arguments, {"key", "default"}, 1));
  if (!arguments.named.empty()) return InvalidArgument("get() takes no keyword arguments");
  const Value key = bound.Get(0);
  if (!IsHashable(key)) return InvalidArgument("unhashable type: '{}'", TypeName(key));
  TANDEM_RETURN_IF_ERROR(context.sandbox().ChargeKey(self.as<Dict>(), key));
  const Value* value = self.as<Dict>().Find(key);
  return value != nullptr ? *value : bound.Get(1);
}

Result MakeView(Context& context, const Value& self, const Arguments& arguments,
                DictView::Part part) {
  TANDEM_RETURN_IF_ERROR(Bind("items/keys/values", arguments, {}, 0).status());
  return context.sandbox().Make<DictView>(self.as<Dict>(), part);
}
Result DictItems(Context& context, const Value& self, const Arguments& arguments) {
  return MakeView(context, self, arguments, DictView::Part::kItems);
}
Result DictKeys(Context& context, const Value& self, const Arguments& arguments) {
  return MakeView(context, self, arguments, DictView::Part::kKeys);
}
Result DictValues(Context& context, const Value& self, const Arguments& arguments) {
  return MakeView(context, self, arguments, DictView::Part::kValues);
}

Result DictCopy(Context& context, const Value& self, const Arguments& arguments) {
  TANDEM_RETURN_IF_ERROR(Bind("copy", arguments, {}, 0).status());
  auto copy = std::make_unique<Dict>();
  TANDEM_RETURN_IF_ERROR(CopyEntries(context.sandbox(), self.as<Dict>(), *copy));
  return context.sandbox().Take(std::move(copy));
}

Result SequenceIndex(Context& context, const Value& self, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound, Bind("index", arguments, {"value"}, 1));
  const std::vector<Value>& items = self.as<Sequence>().items;
  for (size_t index = 0; index < items.size(); ++index) {
    TANDEM_ASSIGN_OR_RETURN(const bool same, Equal(context.sandbox(), items[index], bound.Get(0)));
    if (same) return Value::Int(static_cast<int64_t>(index));
  }
  return InvalidArgument("index(): the value is not in the {}", TypeName(self));
}

Result SequenceCount(Context& context, const Value& self, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound, Bind("count", arguments, {"value"}, 1));
  int64_t count = 0;
  for (const Value& item : self.as<Sequence>().items) {
    TANDEM_ASSIGN_OR_RETURN(const bool same, Equal(context.sandbox(), item, bound.Get(0)));
    count += same;
  }
  return Value::Int(count);
}

Result ListCopy(Context& context, const Value& self, const Arguments& arguments) {
  TANDEM_RETURN_IF_ERROR(Bind("copy", arguments, {}, 0).status());
  return context.sandbox().List(self.as<Sequence>().items);
}

using Entry = std::pair<std::string_view, Method>;
constexpr Entry kDictMethods[] = {
    {"copy", DictCopy}, {"get", DictGet},       {"items", DictItems},
    {"keys", DictKeys}, {"values", DictValues},
};
constexpr Entry kTupleMethods[] = {{"count", SequenceCount}, {"index", SequenceIndex}};
constexpr std::string_view kMutatingDictMethods[] = {"clear", "pop", "popitem", "setdefault",
                                                     "update"};
constexpr std::string_view kMutatingListMethods[] = {"append", "clear",  "extend",  "insert",
                                                     "pop",    "remove", "reverse", "sort"};

template <size_t N>
Method Find(const Entry (&table)[N], std::string_view name) {
  for (const Entry& entry : table) {
    if (entry.first == name) return entry.second;
  }
  return nullptr;
}

}  // namespace

Method FindMethod(const Value& self, std::string_view name) {
  switch (self.type()) {
    case Type::kString:
      return FindStringMethod(name);
    case Type::kDict:
      return Find(kDictMethods, name);
    case Type::kList:
      return name == "copy" ? ListCopy : Find(kTupleMethods, name);
    case Type::kTuple:
      return Find(kTupleMethods, name);
    default:
      return nullptr;
  }
}

bool IsMutatingMethod(const Value& self, std::string_view name) {
  const auto among = [&](const auto& names) {
    return std::find(std::begin(names), std::end(names), name) != std::end(names);
  };
  return (self.is(Type::kDict) && among(kMutatingDictMethods)) ||
         (self.is(Type::kList) && among(kMutatingListMethods));
}

}  // namespace tandem::frontend::jinja
