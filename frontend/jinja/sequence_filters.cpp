#include <algorithm>
#include <functional>
#include <utility>

#include "frontend/jinja/builtins.h"
#include "frontend/jinja/operators.h"
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
Key AttributeKey(Interpreter& interpreter, const Value& attribute, const Value& missing) {
  return [&interpreter, attribute, missing](const Value& item) -> Result {
    if (attribute.IsNone()) {
      return item;
    }
    if (!attribute.IsString()) {
      return interpreter.GetItem(item, attribute);
    }
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
        TANDEM_ASSIGN_OR_RETURN(key, interpreter.sandbox().String(part, true));
      }
      TANDEM_ASSIGN_OR_RETURN(found, interpreter.GetItem(found, key));
      if (found.IsUndefined() && !missing.IsNone()) {
        found = missing;
      }
      begin = end + 1;
    }
    return found;
  };
}

// Strings in lower case unless case matters; other values as they are.
Key Folded(Interpreter& interpreter, Key key, bool case_sensitive) {
  if (case_sensitive) {
    return key;
  }
  return [&interpreter, key = std::move(key)](const Value& item) -> Result {
    TANDEM_ASSIGN_OR_RETURN(Value value, key(item));
    if (!value.IsString()) {
      return value;
    }
    return interpreter.sandbox().String(ToLower(value.text()));
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

Result Sorted(Interpreter& interpreter, const std::vector<Value>& items, const Key& key,
              bool reverse) {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> keys, Keys(items, key));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<size_t> order,
                          SortedOrder(interpreter.sandbox(), keys, reverse));
  std::vector<Value> sorted;
  for (const size_t index : order) {
    sorted.push_back(items[index]);
  }
  return interpreter.sandbox().List(std::move(sorted));
}

Result FilterSort(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("sort", arguments, {"reverse", "case_sensitive", "attribute"}, 0));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(interpreter.sandbox(), subject));
  const bool case_sensitive = bound.Truth(1, false);
  const Value attribute = bound.Get(2);
  std::vector<Key> keys;
  if (attribute.IsString()) {
    const std::string& names = attribute.bytes();
    for (size_t begin = 0; begin <= names.size();) {
      const size_t end = std::min(names.find(',', begin), names.size());
      TANDEM_ASSIGN_OR_RETURN(Value name,
                              interpreter.sandbox().String(names.substr(begin, end - begin), true));
      keys.push_back(Folded(interpreter, AttributeKey(interpreter, name, Value()), case_sensitive));
      begin = end + 1;
    }
  } else {
    keys.push_back(
        Folded(interpreter, AttributeKey(interpreter, attribute, Value()), case_sensitive));
  }
  const Key key = [&](const Value& item) -> Result {
    std::vector<Value> parts;
    for (const Key& part : keys) {
      TANDEM_ASSIGN_OR_RETURN(Value value, part(item));
      parts.push_back(std::move(value));
    }
    return interpreter.sandbox().List(std::move(parts));
  };
  return Sorted(interpreter, items, key, bound.Truth(0, false));
}

Result FilterDictSort(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
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
    TANDEM_ASSIGN_OR_RETURN(Value pair, interpreter.sandbox().Tuple({key, value}));
    pairs.push_back(std::move(pair));
  }
  const size_t part = by == "key" ? 0 : 1;
  const Key key = Folded(
      interpreter, [part](const Value& pair) -> Result { return pair.as<Sequence>().items[part]; },
      bound.Truth(0, false));
  return Sorted(interpreter, pairs, key, bound.Truth(2, false));
}

Result FilterGroupBy(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(
      const BoundArguments bound,
      Bind("groupby", arguments, {"attribute", "default", "case_sensitive"}, 1));
  Sandbox& sandbox = interpreter.sandbox();
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(sandbox, subject));
  const Key plain = AttributeKey(interpreter, bound.Get(0), bound.Get(1));
  const Key key = Folded(interpreter, plain, bound.Truth(2, false));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> keys, Keys(items, key));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<size_t> order,
                          SortedOrder(interpreter.sandbox(), keys, false));
  std::vector<Value> groups;
  for (size_t begin = 0; begin < order.size();) {
    std::vector<Value> members;
    size_t end = begin;
    while (end < order.size()) {
      TANDEM_ASSIGN_OR_RETURN(const bool same,
                              Equal(sandbox, keys[order[begin]], keys[order[end]]));
      if (!same) {
        break;
      }
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

Result Extreme(Interpreter& interpreter, const Value& subject, const Arguments& arguments,
               Order wanted) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("min/max", arguments, {"case_sensitive", "attribute"}, 0));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(interpreter.sandbox(), subject));
  if (items.empty()) {
    return Value::Undefined("No aggregated item, sequence was empty.");
  }
  TANDEM_ASSIGN_OR_RETURN(
      const std::vector<Value> keys,
      Keys(items, Folded(interpreter, AttributeKey(interpreter, bound.Get(1), Value()),
                         bound.Truth(0, false))));
  size_t best = 0;
  for (size_t index = 1; index < items.size(); ++index) {
    TANDEM_ASSIGN_OR_RETURN(const Order order,
                            Compare(interpreter.sandbox(), keys[index], keys[best]));
    best = order == wanted ? index : best;
  }
  return items[best];
}
Result FilterMin(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  return Extreme(interpreter, subject, arguments, Order::kLess);
}
Result FilterMax(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  return Extreme(interpreter, subject, arguments, Order::kGreater);
}

Result FilterSum(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("sum", arguments, {"attribute", "start"}, 0));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(interpreter.sandbox(), subject));
  const Key key = AttributeKey(interpreter, bound.Get(0), Value());
  Value total = bound.Has(1) ? bound.Get(1) : Value::Int(0, true);
  if (total.IsString()) {
    return InvalidArgument("sum: cannot add strings, use join");
  }
  for (const Value& item : items) {
    TANDEM_ASSIGN_OR_RETURN(const Value value, key(item));
    TANDEM_ASSIGN_OR_RETURN(total, Binary(interpreter.sandbox(), "+", total, value));
  }
  return total;
}

Result FilterJoin(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("join", arguments, {"d", "attribute"}, 0));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(interpreter.sandbox(), subject));
  const Key key = AttributeKey(interpreter, bound.Get(1), Value());
  Text separator;
  if (bound.Has(0)) {
    TANDEM_ASSIGN_OR_RETURN(separator, ToText(interpreter.sandbox(), bound.Get(0)));
  }
  Text joined;
  for (size_t index = 0; index < items.size(); ++index) {
    TANDEM_ASSIGN_OR_RETURN(const Value value, key(items[index]));
    TANDEM_ASSIGN_OR_RETURN(const Text part, ToText(interpreter.sandbox(), value));
    if (index != 0) {
      joined.Append(separator);
    }
    joined.Append(part);
    TANDEM_RETURN_IF_ERROR(interpreter.sandbox().CheckStringSize(joined.size()));
  }
  return interpreter.sandbox().String(std::move(joined));
}

Result FilterFirst(Interpreter& interpreter, const Value& subject, const Arguments&) {
  TANDEM_ASSIGN_OR_RETURN(const NextValue next, Iterate(interpreter.sandbox(), subject));
  TANDEM_ASSIGN_OR_RETURN(std::optional<Value> item, next());
  return item ? *std::move(item) : Value::Undefined("No first item, sequence was empty.");
}

Result FilterLast(Interpreter& interpreter, const Value& subject, const Arguments&) {
  if (subject.is(Type::kIterator)) {
    return InvalidArgument("last: a generator cannot be read from its end, use list first");
  }
  TANDEM_ASSIGN_OR_RETURN(std::vector<Value> items, Items(interpreter.sandbox(), subject));
  return items.empty() ? Value::Undefined("No last item, sequence was empty.")
                       : std::move(items.back());
}

Result FilterList(Interpreter& interpreter, const Value& subject, const Arguments&) {
  TANDEM_ASSIGN_OR_RETURN(std::vector<Value> items, Items(interpreter.sandbox(), subject));
  return interpreter.sandbox().List(std::move(items));
}

// A generator over items that are there already.
Result IterateOver(Interpreter& interpreter, std::vector<Value> items, const Value& source) {
  TANDEM_ASSIGN_OR_RETURN(const Value list, interpreter.sandbox().List(std::move(items)));
  TANDEM_ASSIGN_OR_RETURN(NextValue next, Iterate(interpreter.sandbox(), list));
  return interpreter.sandbox().Iterator(std::move(next), source);
}

Result FilterItems(Interpreter& interpreter, const Value& subject, const Arguments&) {
  if (subject.IsUndefined()) {
    return IterateOver(interpreter, {}, subject);
  }
  if (!subject.is(Type::kDict)) {
    // A generator complains when it is read.
    return interpreter.sandbox().Iterator(
        [subject]() -> absl::StatusOr<std::optional<Value>> {
          return InvalidArgument("items: takes a mapping, not {}", TypeName(subject));
        },
        subject);
  }
  TANDEM_ASSIGN_OR_RETURN(const Value view, interpreter.sandbox().Make<DictView>(
                                                subject.as<Dict>(), DictView::Part::kItems));
  TANDEM_ASSIGN_OR_RETURN(NextValue next, Iterate(interpreter.sandbox(), view));
  return interpreter.sandbox().Iterator(std::move(next), subject);
}

Result FilterReverse(Interpreter& interpreter, const Value& subject, const Arguments&) {
  if (subject.IsString()) {
    return Slice(interpreter.sandbox(), subject, Value(), Value(), Value::Int(-1));
  }
  TANDEM_ASSIGN_OR_RETURN(std::vector<Value> items, Items(interpreter.sandbox(), subject));
  std::reverse(items.begin(), items.end());
  if (subject.is(Type::kIterator)) {
    return interpreter.sandbox().List(std::move(items));
  }
  return IterateOver(interpreter, std::move(items), subject);
}

Result FilterUnique(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("unique", arguments, {"case_sensitive", "attribute"}, 0));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(interpreter.sandbox(), subject));
  const Key key =
      Folded(interpreter, AttributeKey(interpreter, bound.Get(1), Value()), bound.Truth(0, false));
  Dict seen;
  std::vector<Value> unique;
  for (const Value& item : items) {
    TANDEM_ASSIGN_OR_RETURN(const Value value, key(item));
    if (!IsHashable(value)) {
      return InvalidArgument("unique: unhashable type: '{}'", TypeName(value));
    }
    if (seen.Find(value) == nullptr) {
      TANDEM_RETURN_IF_ERROR(
          interpreter.sandbox().Charge(static_cast<int64_t>(seen.size() / 16) + 1));
      seen.Set(value, Value());
      unique.push_back(item);
    }
  }
  return IterateOver(interpreter, std::move(unique), subject);
}

absl::StatusOr<int64_t> PartSize(std::string_view filter, const BoundArguments& bound) {
  TANDEM_ASSIGN_OR_RETURN(const int64_t size, bound.Integer(0, 1));
  if (size < 1 || size > 100'000) {
    return InvalidArgument("{}: the number must be from 1 to 100000, not {}", filter, size);
  }
  return size;
}

Result FilterBatch(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("batch", arguments, {"linecount", "fill_with"}, 1));
  TANDEM_ASSIGN_OR_RETURN(const int64_t size, PartSize("batch", bound));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(interpreter.sandbox(), subject));
  std::vector<Value> batches;
  const auto step = static_cast<size_t>(size);
  for (size_t begin = 0; begin < items.size(); begin += step) {
    const size_t end = std::min(begin + step, items.size());
    std::vector<Value> batch(items.begin() + static_cast<std::ptrdiff_t>(begin),
                             items.begin() + static_cast<std::ptrdiff_t>(end));
    if (!bound.Get(1).IsNone()) {
      batch.resize(step, bound.Get(1));
    }
    TANDEM_ASSIGN_OR_RETURN(Value list, interpreter.sandbox().List(std::move(batch)));
    batches.push_back(std::move(list));
  }
  return IterateOver(interpreter, std::move(batches), subject);
}

Result FilterSlice(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("slice", arguments, {"slices", "fill_with"}, 1));
  TANDEM_ASSIGN_OR_RETURN(const int64_t count, PartSize("slice", bound));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(interpreter.sandbox(), subject));
  const auto slices = static_cast<size_t>(count);
  std::vector<Value> result;
  size_t begin = 0;
  for (size_t index = 0; index < slices; ++index) {
    const size_t end = begin + items.size() / slices + (index < items.size() % slices);
    std::vector<Value> part(items.begin() + static_cast<std::ptrdiff_t>(begin),
                            items.begin() + static_cast<std::ptrdiff_t>(end));
    if (!bound.Get(1).IsNone() && index >= items.size() % slices) {
      part.push_back(bound.Get(1));
    }
    TANDEM_ASSIGN_OR_RETURN(Value list, interpreter.sandbox().List(std::move(part)));
    result.push_back(std::move(list));
    begin = end;
  }
  return IterateOver(interpreter, std::move(result), subject);
}

// A generator that passes each item through `step`, which gives nothing for items to leave out.
using Step = std::function<absl::StatusOr<std::optional<Value>>(const Value&)>;
Result Lazily(Interpreter& interpreter, const Value& subject, Step step) {
  if (!IsTruthy(subject)) {
    return IterateOver(interpreter, {}, subject);
  }
  TANDEM_ASSIGN_OR_RETURN(NextValue next, Iterate(interpreter.sandbox(), subject));
  return interpreter.sandbox().Iterator(
      [&interpreter, next = std::move(next),
       step = std::move(step)]() -> absl::StatusOr<std::optional<Value>> {
        while (true) {
          TANDEM_RETURN_IF_ERROR(interpreter.sandbox().Charge(1));
          TANDEM_ASSIGN_OR_RETURN(const std::optional<Value> item, next());
          if (!item) {
            return std::optional<Value>();
          }
          TANDEM_ASSIGN_OR_RETURN(std::optional<Value> mapped, step(*item));
          if (mapped) {
            return mapped;
          }
        }
      },
      subject);
}

Result FilterMap(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  if (arguments.positional.empty()) {
    TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                            Bind("map", arguments, {"attribute", "default"}, 1));
    return Lazily(interpreter, subject,
                  [key = AttributeKey(interpreter, bound.Get(0), bound.Get(1))](
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
      interpreter, subject,
      [&interpreter, name,
       rest = std::move(rest)](const Value& item) -> absl::StatusOr<std::optional<Value>> {
        TANDEM_ASSIGN_OR_RETURN(Value value, interpreter.ApplyFilter(name.bytes(), item, rest));
        return std::optional<Value>(std::move(value));
      });
}

// select, reject, selectattr and rejectattr: keeps items for which the test (or truth) is `wanted`.
Result Select(Interpreter& interpreter, const Value& subject, const Arguments& arguments,
              bool by_attribute, bool wanted) {
  Arguments rest = arguments;
  Value attribute;
  if (by_attribute) {
    if (rest.positional.empty()) {
      return InvalidArgument("the name of an attribute is missing");
    }
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
      interpreter, subject,
      [&interpreter, key = AttributeKey(interpreter, attribute, Value()), test,
       rest = std::move(rest), wanted](const Value& item) -> absl::StatusOr<std::optional<Value>> {
        TANDEM_ASSIGN_OR_RETURN(const Value value, key(item));
        bool holds = IsTruthy(value);
        if (test) {
          TANDEM_ASSIGN_OR_RETURN(holds, interpreter.ApplyTest(test->bytes(), value, rest));
        }
        return holds == wanted ? std::optional<Value>(item) : std::optional<Value>();
      });
}
Result FilterSelect(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  return Select(interpreter, subject, arguments, false, true);
}
Result FilterReject(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  return Select(interpreter, subject, arguments, false, false);
}
Result FilterSelectAttr(Interpreter& interpreter, const Value& subject,
                        const Arguments& arguments) {
  return Select(interpreter, subject, arguments, true, true);
}
Result FilterRejectAttr(Interpreter& interpreter, const Value& subject,
                        const Arguments& arguments) {
  return Select(interpreter, subject, arguments, true, false);
}

constexpr std::pair<std::string_view, Filter> kFilters[] = {
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
  const auto* const found = std::find_if(std::begin(kFilters), std::end(kFilters),
                                         [&](const auto& entry) { return entry.first == name; });
  return found == std::end(kFilters) ? nullptr : found->second;
}

}  // namespace tandem::frontend::jinja
