#include <utility>

#include "frontend/jinja/builtins/builtins.h"
#include "frontend/jinja/values/iterate.h"
#include "frontend/jinja/values/print.h"

// Global functions, and how arguments meet parameters.
namespace tandem::frontend::jinja {
namespace {

constexpr int64_t kMaxRange = 100'000;  // as jinja2's sandbox has it

absl::StatusOr<Value> MakeRange(Context& context, const Arguments& arguments) {
  const std::vector<Value>& bounds = arguments.positional;
  if (bounds.empty() || bounds.size() > 3 || !arguments.named.empty()) {
    return InvalidArgument("range() takes one to three integers");
  }
  for (const Value& bound : bounds) {
    if (bound.IsUndefined()) return InvalidArgument("{}", bound.reason());
    if (!bound.IsIntegral()) {
      return InvalidArgument("range() takes integers, not {}", TypeName(bound));
    }
  }
  const int64_t step = bounds.size() == 3 ? bounds[2].integer() : 1;
  if (step == 0) return InvalidArgument("the step of range() must not be zero");
  const int64_t start = bounds.size() == 1 ? 0 : bounds[0].integer();
  const int64_t stop = bounds.size() == 1 ? bounds[0].integer() : bounds[1].integer();
  if (Range(start, stop, step).size > kMaxRange) {
    return ResourceExhausted("range() of more than {} members", kMaxRange);
  }
  return context.sandbox().Make<Range>(start, stop, step);
}

}  // namespace

absl::Status CopyEntries(Sandbox& sandbox, const Dict& from, Dict& to) {
  for (const auto& [key, value] : from.entries()) {
    TANDEM_RETURN_IF_ERROR(sandbox.Charge(4));
    TANDEM_RETURN_IF_ERROR(sandbox.ChargeKey(to, key));
    to.Set(key, value);
  }
  return absl::OkStatus();
}

namespace {

// What dict() and namespace() take: a mapping or pairs, then keywords.
absl::Status FillDict(Context& context, std::string_view callee, const Arguments& arguments,
                      Dict& dict) {
  if (arguments.positional.size() > 1) {
    return InvalidArgument("{}() takes at most one positional argument", callee);
  }
  for (const Value& source : arguments.positional) {
    if (source.is(Type::kDict)) {
      TANDEM_RETURN_IF_ERROR(CopyEntries(context.sandbox(), source.as<Dict>(), dict));
      continue;
    }
    TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> pairs, Items(context.sandbox(), source));
    for (const Value& pair : pairs) {
      TANDEM_ASSIGN_OR_RETURN(const std::vector<Value> parts, Items(context.sandbox(), pair));
      if (parts.size() != 2 || !IsHashable(parts[0])) {
        return InvalidArgument("{}() takes pairs of a key and a value", callee);
      }
      TANDEM_RETURN_IF_ERROR(context.sandbox().ChargeKey(dict, parts[0]));
      dict.Set(parts[0], parts[1]);
    }
  }
  for (const auto& [name, value] : arguments.named) {
    TANDEM_ASSIGN_OR_RETURN(const Value key, context.sandbox().String(name, true));
    TANDEM_RETURN_IF_ERROR(context.sandbox().ChargeKey(dict, key));
    dict.Set(key, value);
  }
  return absl::OkStatus();
}

absl::StatusOr<Value> MakeDict(Context& context, const Arguments& arguments) {
  auto dict = std::make_unique<Dict>();
  TANDEM_RETURN_IF_ERROR(FillDict(context, "dict", arguments, *dict));
  return context.sandbox().Take(std::move(dict));
}

absl::StatusOr<Value> MakeNamespace(Context& context, const Arguments& arguments) {
  auto fields = std::make_unique<Dict>(Type::kNamespace);
  TANDEM_RETURN_IF_ERROR(FillDict(context, "namespace", arguments, *fields));
  for (const auto& [key, value] : fields->entries()) {
    if (key.IsString() && key.bytes().substr(0, 1) == "_") {
      return InvalidArgument("fields of a namespace cannot start with an underscore, as '{}' does",
                             key.bytes());
    }
  }
  return context.sandbox().Take(std::move(fields));
}

absl::StatusOr<Value> RaiseException(Context& context, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("raise_exception", arguments, {"message"}, 1));
  TANDEM_ASSIGN_OR_RETURN(const Text message, ToText(context.sandbox(), bound.Get(0)));
  return InvalidArgument("the template refuses these messages: {}", message.bytes());
}

absl::StatusOr<Value> StrftimeNow(Context& context, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound,
                          Bind("strftime_now", arguments, {"format"}, 1));
  const Value format = bound.Get(0);
  if (!format.IsString() || format.bytes().size() > 200) {
    return InvalidArgument("strftime_now() takes a format of at most 200 bytes");
  }
  if (format.bytes().empty()) return format;
  constexpr int64_t kStepsPerByte = 8;
  TANDEM_RETURN_IF_ERROR(
      context.sandbox().Charge(static_cast<int64_t>(format.bytes().size()) * kStepsPerByte));
  char buffer[4096];
  const size_t size = std::strftime(buffer, sizeof(buffer), format.bytes().c_str(), &context.now());
  return context.sandbox().String(std::string(buffer, size), format.text().AllTrusted());
}

// Gives its items in turn, over and over.
class Cycler : public Native {
 public:
  explicit Cycler(std::vector<Value> items) : items_(std::move(items)) {}
  bool callable() const override { return false; }
  std::string Describe() const override { return "<Cycler>"; }
  absl::StatusOr<std::optional<Value>> Attribute(Context& context, std::string_view name) override {
    if (name == "current") return std::optional<Value>(items_[position_]);
    if (name != "next" && name != "reset") return std::optional<Value>();
    const bool reset = name == "reset";
    TANDEM_ASSIGN_OR_RETURN(
        Value function,
        context.sandbox().Make<Function>(
            std::string(name), [this, reset](Context&, const Arguments&) -> absl::StatusOr<Value> {
              const Value item = reset ? Value() : items_[position_];
              position_ = reset ? 0 : (position_ + 1) % items_.size();
              return item;
            }));
    return std::optional<Value>(std::move(function));
  }

 private:
  const std::vector<Value> items_;
  size_t position_ = 0;
};

absl::StatusOr<Value> MakeCycler(Context& context, const Arguments& arguments) {
  if (arguments.positional.empty()) return InvalidArgument("cycler() takes at least one item");
  TANDEM_RETURN_IF_ERROR(context.sandbox().Reserve(arguments.positional.size() * sizeof(Value)));
  return context.sandbox().Make<Cycler>(arguments.positional);
}

// Gives an empty string the first time it is called, then its separator.
class Joiner : public Native {
 public:
  Joiner(Value separator, Value nothing)
      : separator_(std::move(separator)), nothing_(std::move(nothing)) {}
  std::string Describe() const override { return "<Joiner>"; }
  absl::StatusOr<Value> Call(Context&, const Arguments&) override {
    return std::exchange(used_, true) ? separator_ : nothing_;
  }

 private:
  const Value separator_;
  const Value nothing_;
  bool used_ = false;
};

absl::StatusOr<Value> MakeJoiner(Context& context, const Arguments& arguments) {
  TANDEM_ASSIGN_OR_RETURN(const BoundArguments bound, Bind("joiner", arguments, {"sep"}, 0));
  TANDEM_ASSIGN_OR_RETURN(Value separator, context.sandbox().String(", ", true));
  TANDEM_ASSIGN_OR_RETURN(Value nothing, context.sandbox().String("", true));
  return context.sandbox().Make<Joiner>(bound.Has(0) ? bound.Get(0) : separator, nothing);
}

}  // namespace

absl::Status ChargeMapping(Sandbox& sandbox, const Text& text) {
  return sandbox.Charge(static_cast<int64_t>(text.size() / 2));
}

absl::StatusOr<int64_t> BoundArguments::Integer(size_t index, int64_t missing) const {
  if (!Has(index)) return missing;
  if (!values_[index]->IsIntegral()) {
    return InvalidArgument("expected an integer argument, found {}", TypeName(*values_[index]));
  }
  return values_[index]->integer();
}

absl::StatusOr<BoundArguments> Bind(std::string_view callee, const Arguments& arguments,
                                    std::initializer_list<std::string_view> parameters,
                                    size_t required) {
  if (arguments.positional.size() > parameters.size()) {
    return InvalidArgument("{}() takes at most {} argument(s), {} are given", callee,
                           parameters.size(), arguments.positional.size());
  }
  std::vector<std::optional<Value>> values(arguments.positional.begin(),
                                           arguments.positional.end());
  values.resize(parameters.size());
  for (const auto& [name, value] : arguments.named) {
    size_t index = 0;
    while (index < parameters.size() && parameters.begin()[index] != name) {
      ++index;
    }
    if (index == parameters.size()) {
      return InvalidArgument("{}() has no parameter '{}'", callee, name);
    }
    if (values[index]) return InvalidArgument("{}() got two values for '{}'", callee, name);
    values[index] = value;
  }
  for (size_t index = 0; index < required; ++index) {
    if (!values[index]) {
      return InvalidArgument("{}() lacks its argument '{}'", callee, parameters.begin()[index]);
    }
  }
  return BoundArguments(std::move(values));
}

std::span<const GlobalFunction> GlobalFunctions() {
  static constexpr GlobalFunction kFunctions[] = {
      {"range", MakeRange},          {"dict", MakeDict},     {"namespace", MakeNamespace},
      {"cycler", MakeCycler},        {"joiner", MakeJoiner}, {"raise_exception", RaiseException},
      {"strftime_now", StrftimeNow},
  };
  return kFunctions;
}

}  // namespace tandem::frontend::jinja
