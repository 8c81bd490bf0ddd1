#include "frontend/jinja/values/iterate.h"

#include <utility>

namespace tandem::frontend::jinja {

absl::StatusOr<NextValue> Iterate(Sandbox& sandbox, const Value& value) {
  using Step = absl::StatusOr<std::optional<Value>>;
  switch (value.type()) {
    case Type::kUndefined:
      return NextValue([]() -> Step { return std::optional<Value>(); });
    case Type::kString:
      return NextValue([&sandbox, value, offset = size_t{0}]() mutable -> Step {
        if (offset >= value.text().size()) return std::optional<Value>();
        const size_t length = DecodeAt(value.bytes(), offset).length;
        TANDEM_ASSIGN_OR_RETURN(Value character,
                                sandbox.String(value.text().Slice(offset, offset + length)));
        offset += length;
        return std::optional<Value>(std::move(character));
      });
    case Type::kList:
    case Type::kTuple:
      return NextValue([&items = value.as<Sequence>().items, index = size_t{0}]() mutable -> Step {
        return index < items.size() ? std::optional<Value>(items[index++]) : std::optional<Value>();
      });
    case Type::kDict:
      return NextValue([&dict = value.as<Dict>(), index = size_t{0}]() mutable -> Step {
        return index < dict.size() ? std::optional<Value>(dict.entries()[index++].first)
                                   : std::optional<Value>();
      });
    case Type::kRange:
      return NextValue([&range = value.as<Range>(), index = int64_t{0}]() mutable -> Step {
        return index < range.size ? std::optional<Value>(Value::Int(range.At(index++), true))
                                  : std::optional<Value>();
      });
    case Type::kDictView:
      return NextValue(
          [&sandbox, &view = value.as<DictView>(), index = size_t{0}]() mutable -> Step {
            if (index >= view.dict.size()) return std::optional<Value>();
            const Dict::Entry& entry = view.dict.entries()[index++];
            if (view.part == DictView::Part::kItems) {
              TANDEM_ASSIGN_OR_RETURN(Value pair, sandbox.Tuple({entry.first, entry.second}));
              return std::optional<Value>(std::move(pair));
            }
            return std::optional<Value>(view.part == DictView::Part::kKeys ? entry.first
                                                                           : entry.second);
          });
    case Type::kIterator:
      return NextValue([&iterator = value.as<Iterator>()]() -> Step { return iterator.next(); });
    default:
      return InvalidArgument("'{}' object is not iterable", TypeName(value));
  }
}

absl::StatusOr<std::vector<Value>> Items(Sandbox& sandbox, const Value& value) {
  TANDEM_ASSIGN_OR_RETURN(NextValue next, Iterate(sandbox, value));
  std::vector<Value> items;
  while (true) {
    TANDEM_ASSIGN_OR_RETURN(std::optional<Value> item, next());
    if (!item) return items;
    TANDEM_RETURN_IF_ERROR(sandbox.Charge(1));
    items.push_back(*std::move(item));
  }
}

}  // namespace tandem::frontend::jinja
