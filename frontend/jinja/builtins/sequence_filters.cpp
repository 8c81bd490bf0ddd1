#include <algorithm>
#include <functional>
#include <utility>

#include "frontend/jinja/builtins/builtins.h"
#include "frontend/jinja/builtins/operators.h"
#include "frontend/jinja/values/compare.h"
#include "frontend/jinja/values/iterate.h"
#include "frontend/jinja/values/print.h"
#include "frontend/jinja/values/sort.h"
#include "frontend/jinja/values/unicode.h"

// Filters of lists, dicts and whatever else can be iterated.
namespace tandem::frontend::jinja {
namespace {

using Result = absl::StatusOr<Value>;
using Key = std::function<Result(const Value&)>;
using Less = std::function<absl::StatusOr<bool>(const Value&, const Value&)>;

// Looks up "name", "outer.inner" or an index in each item, as jinja2's make_attrgetter.
Key AttributeKey(Context& context, const Value& attribute, const Value& missing) {
  return [&context, attribute, missing](const Value& item) -> Result {
    TANDEM_RETURN_IF_ERROR(context.sandbox().Charge(1));
    if (attribute.IsNone()) return item;
    if (!attribute.IsString()) return context.GetItem(item, attribute);
    Value found = item;
    const std::string& path = attribute.bytes();
    size_t begin = 0;
    while (begin <= path.size()) {
      const size_t end = std::min(path.find('.', begin), path.size());
      const std::string part = path.substr(begin, end - begin);
      const bool number = !part.empty() && part.size() < 10 &&
                          part.find_first_not_of("0123456789") == std::string::npos;
      Value key = Value::Int(number ? std::stoll(part) : 0);
      if (!number) {
        TANDEM_ASSIGN_OR_RETURN(key, context.sandbox().String(part, true));
      }
      TANDEM_ASSIGN_OR_RETURN(found, context.GetItem(found, key));
      if (found.IsUndefined() && !missing.IsNone()) found = missing;
      begin = end + 1;
    }
    return found;
  };
}

// Strings in lower case unless case matters; other values as they are.
Key Folded(Context& context, Key key, bool case_sensitive) {
  if (case_sensitive) return key;
  return [&context, key = std::move(key)](const Value& item) -> Result {
    TANDEM_ASSIGN_OR_RETURN(Value value, key(item));
    if (!value.IsString()) return value;
    TANDEM_RETURN_IF_ERROR(ChargeMapping(context.sandbox(), value.text()));
    return context.sandbox().String(ToLower(value.text()));
  };
}

absl::StatusOr<std::vector<Value>> Keys(const std::vector<Value>& items, const Key& key) {
  std::vector<Value> keys;
  for (const Value& item : items) {
    TANDEM_ASSIGN_OR_RETURN(Value value, key(item));
    keys.push_back(std::move(value));
  }
  return keys;
}

Result Sorted(Context& context, const std::vector<Value>& items, const Key& key, bool reverse) {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> keys, Keys(items, key));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<size_t> order,
                          SortedOrder(context.sandbox(), keys, reverse));
  std::vector<Value> sorted;
  sorted.reserve(order.size());
  for (const size_t index : order) sorted.push_back(items[index]);
  return context.sandbox().List(std::move(sorted));
}

Result FilterSort(Context& context, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("sort", arguments, {"reverse", "case_sensitive", "attribute"}, 0));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(context.sandbox(), subject));
  const bool case_sensitive = bound.Truth(1, false);
  const Value attribute = bound.Get(2);
  std::vector<Key> keys;
  if (attribute.IsString()) {
    const std::string& names = attribute.bytes();
    for (size_t begin = 0; begin <= names.size();) {
      const size_t end = std::min(names.find(',', begin), names.size());
      TANDEM_ASSIGN_OR_RETURN(Value name,
                              context.sandbox().String(names.substr(begin, end - begin), true));
      keys.push_back(Folded(context, AttributeKey(context, name, Value()), case_sensitive));
      begin = end + 1;
    }
  } else {
    keys.push_back(Folded(context, AttributeKey(context, attribute, Value()), case_sensitive));
  }
  const Key key = [&](const Value& item) -> Result {
    std::vector<Value> parts;
    for (const Key& part : keys) {
      TANDEM_ASSIGN_OR_RETURN(Value value, part(item));
      parts.push_back(std::move(value));
    }
    return context.sandbox().List(std::move(parts));
  };
  return Sorted(context, items, key, bound.Truth(0, false));
}

Result FilterDictSort(Context& context, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("dictsort", arguments, {"case_sensitive", "by", "reverse"}, 0));
  if (!subject.is(Type::kDict)) {
    return InvalidArgument("dictsort: takes a dict, not {}", TypeName(subject));
  }
  const std::string by = bound.Has(1) && bound.Get(1).IsString() ? bound.Get(1).bytes() : "key";
  if (by != "key" && by != "value") {
    return InvalidArgument("dictsort: sorts by 'key' or 'value', not by '{}'", by);
  }
  std::vector<Value> pairs;
  for (const auto& [key, value] : subject.as<Dict>().entries()) {
    TANDEM_ASSIGN_OR_RETURN(Value pair, context.sandbox().Tuple({key, value}));
    pairs.push_back(std::move(pair));
  }
  const size_t part = by == "key" ? 0 : 1;
  const Key key = Folded(
      context, [part](const Value& pair) -> Result { return pair.as<Sequence>().items[part]; },
      bound.Truth(0, false));
  return Sorted(context, pairs, key, bound.Truth(2, false));
}

Result FilterGroupBy(Context& context, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(
      const BoundArguments bound,
      Bind("groupby", arguments, {"attribute", "default", "case_sensitive"}, 1));
  Sandbox& sandbox = context.sandbox();
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(sandbox, subject));
  const Key plain = AttributeKey(context, bound.Get(0), bound.Get(1));
  const Key key = Folded(context, plain, bound.Truth(2, false));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> keys, Keys(items, key));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<size_t> order,
                          SortedOrder(context.sandbox(), keys, false));
  std::vector<Value> groups;
  for (size_t begin = 0; begin < order.size();) {
    std::vector<Value> members;
    size_t end = begin;
    while (end < order.size()) {
      TANDEM_ASSIGN_OR_RETURN(const bool same,
                              Equal(sandbox, keys[order[begin]], keys[order[end]]));
      if (!same) break;
      members.push_back(items[order[end++]]);
    }
    TANDEM_ASSIGN_OR_RETURN(Value grouper, plain(members.front()));
    TANDEM_ASSIGN_OR_RETURN(Value list, sandbox.List(std::move(members)));
    TANDEM_ASSIGN_OR_RETURN(Value group, sandbox.Tuple({std::move(grouper), std::move(list)}));
    groups.push_back(std::move(group));
    begin = end;
  }
  return sandbox.List(std::move(groups));
}

Result Extreme(Context& context, const Value& subject, const Arguments& arguments, Order wanted) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("min/max", arguments, {"case_sensitive", "attribute"}, 0));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(context.sandbox(), subject));
  if (items.empty()) return Value::Undefined("No aggregated item, sequence was empty.");
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> keys,
                          Keys(items, Folded(context, AttributeKey(context, bound.Get(1), Value()),
                                             bound.Truth(0, false))));
  size_t best = 0;
  for (size_t index = 1; index < items.size(); ++index) {
    TANDEM_ASSIGN_OR_RETURN(const Order order, Compare(context.sandbox(), keys[index], keys[best]));
    best = order == wanted ? index : best;
  }
  return items[best];
}
Result FilterMin(Context& context, const Value& subject, const Arguments& arguments) {
  return Extreme(context, subject, arguments, Order::kLess);
}
Result FilterMax(Context& context, const Value& subject, const Arguments& arguments) {
  return Extreme(context, subject, arguments, Order::kGreater);
}

Result FilterSum(Context& context, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("sum", arguments, {"attribute", "start"}, 0));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(context.sandbox(), subject));
  const Key key = AttributeKey(context, bound.Get(0), Value());
  Value total = bound.Has(1) ? bound.Get(1) : Value::Int(0, true);
  if (total.IsString()) return InvalidArgument("sum: cannot add strings, use join");
  for (const Value& item : items) {
    TANDEM_ASSIGN_OR_RETURN(const Value value, key(item));
    TANDEM_ASSIGN_OR_RETURN(total, Binary(context.sandbox(), "+", total, value));
  }
  return total;
}

Result FilterJoin(Context& context, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("join", arguments, {"d", "attribute"}, 0));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(context.sandbox(), subject));
  const Key key = AttributeKey(context, bound.Get(1), Value());
  Text separator;
  if (bound.Has(0)) {
    TANDEM_ASSIGN_OR_RETURN(separator, ToText(context.sandbox(), bound.Get(0)));
  }
  Text joined;
  for (size_t index = 0; index < items.size(); ++index) {
    TANDEM_ASSIGN_OR_RETURN(const Value value, key(items[index]));
    TANDEM_ASSIGN_OR_RETURN(const Text part, ToText(context.sandbox(), value));
    if (index != 0) joined.Append(separator);
    joined.Append(part);
    TANDEM_RETURN_IF_ERROR(context.sandbox().CheckStringSize(joined.size()));
  }
  return context.sandbox().String(std::move(joined));
}

Result FilterFirst(Context& context, const Value& subject, const Arguments&) {
  TANDEM_ASSIGN_OR_RETURN(const NextValue next, Iterate(context.sandbox(), subject));
  TANDEM_ASSIGN_OR_RETURN(std::optional<Value> item, next());
  return item ? *std::move(item) : Value::Undefined("No first item, sequence was empty.");
}

Result FilterLast(Context& context, const Value& subject, const Arguments&) {
  if (subject.is(Type::kIterator)) {
    return InvalidArgument("last: a generator cannot be read from its end, use list first");
  }
  TANDEM_ASSIGN_OR_RETURN(std::vector<Value> items, Items(context.sandbox(), subject));
  return items.empty() ? Value::Undefined("No last item, sequence was empty.")
                       : std::move(items.back());
}

Result FilterList(Context& context, const Value& subject, const Arguments&) {
  TANDEM_ASSIGN_OR_RETURN(std::vector<Value> items, Items(context.sandbox(), subject));
  return context.sandbox().List(std::move(items));
}

// A generator over items that are there already.
Result IterateOver(Context& context, std::vector<Value> items, const Value& source) {
  TANDEM_ASSIGN_OR_RETURN(const Value list, context.sandbox().List(std::move(items)));
  TANDEM_ASSIGN_OR_RETURN(NextValue next, Iterate(context.sandbox(), list));
  return context.sandbox().Iterator(std::move(next), source);
}

Result FilterItems(Context& context, const Value& subject, const Arguments&) {
  if (subject.IsUndefined()) return IterateOver(context, {}, subject);
  if (!subject.is(Type::kDict)) {
    // A generator complains when it is read.
    return context.sandbox().Iterator(
        [subject]() -> absl::StatusOr<std::optional<Value>> {
          return InvalidArgument("items: takes a mapping, not {}", TypeName(subject));
        },
        subject);
  }
  TANDEM_ASSIGN_OR_RETURN(const Value view, context.sandbox().Make<DictView>(
                                                subject.as<Dict>(), DictView::Part::kItems));
  TANDEM_ASSIGN_OR_RETURN(NextValue next, Iterate(context.sandbox(), view));
  return context.sandbox().Iterator(std::move(next), subject);
}

Result FilterReverse(Context& context, const Value& subject, const Arguments&) {
  if (subject.IsString()) {
    return Slice(context.sandbox(), subject, Value(), Value(), Value::Int(-1));
  }
  TANDEM_ASSIGN_OR_RETURN(std::vector<Value> items, Items(context.sandbox(), subject));
  std::reverse(items.begin(), items.end());
  if (subject.is(Type::kIterator)) return context.sandbox().List(std::move(items));
  return IterateOver(context, std::move(items), subject);
}

Result FilterUnique(Context& context, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("unique", arguments, {"case_sensitive", "attribute"}, 0));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(context.sandbox(), subject));
  const Key key =
      Folded(context, AttributeKey(context, bound.Get(1), Value()), bound.Truth(0, false));
  Dict seen;
  std::vector<Value> unique;
  for (const Value& item : items) {
    TANDEM_ASSIGN_OR_RETURN(const Value value, key(item));
    if (!IsHashable(value)) {
      return InvalidArgument("unique: unhashable type: '{}'", TypeName(value));
    }
    TANDEM_RETURN_IF_ERROR(context.sandbox().Charge(4));
    TANDEM_RETURN_IF_ERROR(context.sandbox().ChargeKey(seen, value));
    const size_t known = seen.size();
    seen.Set(value, Value());
    if (seen.size() > known) unique.push_back(item);
  }
  return IterateOver(context, std::move(unique), subject);
}

absl::StatusOr<int64_t> PartSize(std::string_view filter, const BoundArguments& bound) {
  TANDEM_ASSIGN_OR_RETURN(const int64_t size, bound.Integer(0, 1));
  if (size < 1 || size > 100'000) {
    return InvalidArgument("{}: the number must be from 1 to 100000, not {}", filter, size);
  }
  return size;
}

Result FilterBatch(Context& context, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("batch", arguments, {"linecount", "fill_with"}, 1));
  TANDEM_ASSIGN_OR_RETURN(const int64_t size, PartSize("batch", bound));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(context.sandbox(), subject));
  std::vector<Value> batches;
  const auto step = static_cast<size_t>(size);
  for (size_t begin = 0; begin < items.size(); begin += step) {
    const size_t end = std::min(begin + step, items.size());
    std::vector<Value> batch(items.begin() + static_cast<std::ptrdiff_t>(begin),
                             items.begin() + static_cast<std::ptrdiff_t>(end));
    if (!bound.Get(1).IsNone()) batch.resize(step, bound.Get(1));
    TANDEM_ASSIGN_OR_RETURN(Value list, context.sandbox().List(std::move(batch)));
    batches.push_back(std::move(list));
  }
  return IterateOver(context, std::move(batches), subject);
}

Result FilterSlice(Context& context, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("slice", arguments, {"slices", "fill_with"}, 1));
  TANDEM_ASSIGN_OR_RETURN(const int64_t count, PartSize("slice", bound));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(context.sandbox(), subject));
  const auto slices = static_cast<size_t>(count);
  std::vector<Value> result;
  size_t begin = 0;
  for (size_t index = 0; index < slices; ++index) {
    const size_t end = begin + items.size() / slices + (index < items.size() % slices);
    std::vector<Value> part(items.begin() + static_cast<std::ptrdiff_t>(begin),
                            items.begin() + static_cast<std::ptrdiff_t>(end));
    if (!bound.Get(1).IsNone() && index >= items.size() % slices) part.push_back(bound.Get(1));
    TANDEM_ASSIGN_OR_RETURN(Value list, context.sandbox().List(std::move(part)));
    result.push_back(std::move(list));
    begin = end;
  }
  return IterateOver(context, std::move(result), subject);
}

// A generator that passes each item through `step`, which gives nothing for items to leave out.
using Step = std::function<absl::StatusOr<std::optional<Value>>(const Value&)>;
Result Lazily(Context& context, const Value& subject, Step step) {
  if (!IsTruthy(subject)) return IterateOver(context, {}, subject);
  TANDEM_ASSIGN_OR_RETURN(NextValue next, Iterate(context.sandbox(), subject));
  return context.sandbox().Iterator(
      [&context, next = std::move(next),
       step = std::move(step)]() -> absl::StatusOr<std::optional<Value>> {
        while (true) {
          TANDEM_RETURN_IF_ERROR(context.sandbox().Charge(1));
          TANDEM_ASSIGN_OR_RETURN(const std::optional<Value> item, next());
          if (!item) return std::optional<Value>();
          TANDEM_ASSIGN_OR_RETURN(std::optional<Value> mapped, step(*item));
          if (mapped) return mapped;
        }
      },
      subject);
}

Result FilterMap(Context& context, const Value& subject, const Arguments& arguments) {
  if (arguments.positional.empty()) {
    TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                            Bind("map", arguments, {"attribute", "default"}, 1));
    return Lazily(context, subject,
                  [key = AttributeKey(context, bound.Get(0), bound.Get(1))](
                      const Value& item) -> absl::StatusOr<std::optional<Value>> {
                    TANDEM_ASSIGN_OR_RETURN(Value value, key(item));
                    return std::optional<Value>(std::move(value));
                  });
  }
  const Value name = arguments.positional.front();
  if (!name.IsString()) {
    return InvalidArgument("map: the filter's name must be a str, not {}", TypeName(name));
  }
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin());
  return Lazily(
      context, subject,
      [&context, name,
       rest = std::move(rest)](const Value& item) -> absl::StatusOr<std::optional<Value>> {
        TANDEM_ASSIGN_OR_RETURN(Value value, context.ApplyFilter(name.bytes(), item, rest));
        return std::optional<Value>(std::move(value));
      });
}

// select, reject, selectattr and rejectattr: keeps items for which the test (or truth) is `wanted`.
Result Select(Context& context, const Value& subject, const Arguments& arguments, bool by_attribute,
              bool wanted) {
  Arguments rest = arguments;
  Value attribute;
  if (by_attribute) {
    if (rest.positional.empty()) return InvalidArgument("the name of an attribute is missing");
    attribute = rest.positional.front();
    rest.positional.erase(rest.positional.begin());
  }
  std::optional<Value> test;
  if (!rest.positional.empty()) {
    test = rest.positional.front();
    rest.positional.erase(rest.positional.begin());
    if (!test->IsString()) {
      return InvalidArgument("the name of a test must be a str, not {}", TypeName(*test));
    }
  }
  return Lazily(
      context, subject,
      [&context, key = AttributeKey(context, attribute, Value()), test, rest = std::move(rest),
       wanted](const Value& item) -> absl::StatusOr<std::optional<Value>> {
        TANDEM_ASSIGN_OR_RETURN(const Value value, key(item));
        bool holds = IsTruthy(value);
        if (test) {
          TANDEM_ASSIGN_OR_RETURN(holds, context.ApplyTest(test->bytes(), value, rest));
        }
        return holds == wanted ? std::optional<Value>(item) : std::optional<Value>();
      });
}
Result FilterSelect(Context& context, const Value& subject, const Arguments& arguments) {
  return Select(context, subject, arguments, false, true);
}
Result FilterReject(Context& context, const Value& subject, const Arguments& arguments) {
  return Select(context, subject, arguments, false, false);
}
Result FilterSelectAttr(Context& context, const Value& subject, const Arguments& arguments) {
  return Select(context, subject, arguments, true, true);
}
Result FilterRejectAttr(Context& context, const Value& subject, const Arguments& arguments) {
  return Select(context, subject, arguments, true, false);
}

constexpr std::pair<std::string_view, Filter> kSequenceFilters[] = {
    {"batch", FilterBatch},
    {"dictsort", FilterDictSort},
    {"first", FilterFirst},
    {"groupby", FilterGroupBy},
    {"items", FilterItems},
    {"join", FilterJoin},
    {"last", FilterLast},
    {"list", FilterList},
    {"map", FilterMap},
    {"max", FilterMax},
    {"min", FilterMin},
    {"reject", FilterReject},
    {"rejectattr", FilterRejectAttr},
    {"reverse", FilterReverse},
    {"select", FilterSelect},
    {"selectattr", FilterSelectAttr},
    {"slice", FilterSlice},
    {"sort", FilterSort},
    {"sum", FilterSum},
    {"unique", FilterUnique},
};

}  // namespace

Filter FindSequenceFilter(std::string_view name) {
  const auto* const found = std::find_if(std::begin(kSequenceFilters), std::end(kSequenceFilters),
                                         [&](const auto& entry) { return entry.first == name; });
  return found == std::end(kSequenceFilters) ? nullptr : found->second;
}

}  // namespace tandem::frontend::jinja
