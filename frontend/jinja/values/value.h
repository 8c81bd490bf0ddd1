#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/base/status.h"
#include "frontend/jinja/values/text.h"

/// Values of the template language: what Python's objects are to jinja2.
///
/// Containers are owned by the Sandbox of one rendering and live until it ends, so that values may
/// form cycles; strings are counted and freed. Nothing here may be shared between threads.
namespace tandem::frontend::jinja {

class Context;
class Object;

enum class Type {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kList,
  kTuple,
  kDict,
  kNamespace,
  kRange,
  kDictView,  // what dict.keys(), values() and items() give
  kIterator,  // generators: consumed by being read
  kNative     // functions, macros, bound methods, loop, cycler
};

/// Why a value is undefined: the message of the error that using it raises.
struct UndefinedReason {
  std::string message;
};

/// One value. Copying is cheap: containers are referred to, strings are shared.
class Value {
 public:
  Value() : data_(std::monostate{}) {}  // None

  static Value None(bool trusted = false) { return Value(std::monostate{}, trusted); }
  static Value Bool(bool value, bool trusted = false) { return Value(value, trusted); }
  static Value Int(int64_t value, bool trusted = false) { return Value(value, trusted); }
  static Value Float(double value, bool trusted = false) { return Value(value, trusted); }
  static Value Undefined(std::string message) {
    return Value(std::make_shared<const UndefinedReason>(UndefinedReason{std::move(message)}),
                 true);
  }
  /// Strings with content are made by Sandbox::String, which accounts for them.
  static Value String(std::shared_ptr<const Text> text, bool markup) {
    Value value(std::move(text), false);
    value.markup_ = markup;
    return value;
  }
  static Value Of(Object* object) { return Value(object, false); }

  Type type() const;
  bool is(Type wanted) const { return type() == wanted; }
  bool IsUndefined() const { return is(Type::kUndefined); }
  bool IsNone() const { return is(Type::kNone); }
  bool IsString() const { return is(Type::kString); }
  /// Bool, int or float, as numbers.Number has it.
  bool IsNumber() const { return is(Type::kBool) || is(Type::kInt) || is(Type::kFloat); }
  /// Int or bool, as isinstance(value, int) has it.
  bool IsIntegral() const { return is(Type::kBool) || is(Type::kInt); }

  bool boolean() const { return std::get<bool>(data_); }
  /// The number of an int or a bool.
  int64_t integer() const {
    return is(Type::kBool) ? int64_t{boolean()} : std::get<int64_t>(data_);
  }
  /// The number of an int, bool or float.
  double number() const {
    return is(Type::kFloat) ? std::get<double>(data_) : static_cast<double>(integer());
  }
  const Text& text() const { return *std::get<std::shared_ptr<const Text>>(data_); }
  const std::string& bytes() const { return text().bytes(); }
  const std::string& reason() const {
    return std::get<std::shared_ptr<const UndefinedReason>>(data_)->message;
  }
  Object* object() const { return std::get<Object*>(data_); }
  /// The object as the class that its type() promises.
  template <typename T>
  T& as() const {
    return *static_cast<T*>(object());
  }

  /// Whether a scalar other than a string was written by the template (strings know it by byte).
  bool trusted() const { return trusted_; }
  /// Whether a string was marked safe (markupsafe.Markup), so that what is added to it gets
  /// escaped.
  bool markup() const { return markup_; }

 private:
  using Data = std::variant<std::monostate, std::shared_ptr<const UndefinedReason>, bool, int64_t,
                            double, std::shared_ptr<const Text>, Object*>;
  Value(Data data, bool trusted) : data_(std::move(data)), trusted_(trusted) {}

  Data data_;
  bool trusted_ = false;
  bool markup_ = false;
};

/// Arguments of a call, filter or test.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

/// Whatever lives on the heap of one rendering.
class Object {
 public:
  explicit Object(Type type) : type_(type) {}
  virtual ~Object() = default;
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  Type type() const { return type_; }

 private:
  Type type_;
};

/// A list or a tuple.
class Sequence : public Object {
 public:
  Sequence(Type type, std::vector<Value> members);
  const std::vector<Value> items;

  // Known from the start, since lists may hold one another over and over: walking all that is
  // reached could take for ever.
  const int depth;      // Depth()
  const bool hashable;  // as IsHashable() has it, were it a tuple
  const int64_t work;   // steps of comparing it with its like; kMostWork where it is more
  static constexpr int64_t kMostWork = int64_t{1} << 40;
};

/// An order of hashable values by which those that are equal as keys are equivalent: numbers by
/// value, strings by bytes, tuples by members, what else there is by identity.
struct KeyLess {
  using is_transparent = void;
  bool operator()(const Value& left, const Value& right) const;
  bool operator()(const Value& left, std::string_view right) const;
  bool operator()(std::string_view left, const Value& right) const;
};

/// A dict or a namespace: keeps the order of insertion. Keys are scalars or tuples of them. Finding
/// and setting take Work(key) steps of fuel, which the caller spends.
class Dict : public Object {
 public:
  using Entry = std::pair<Value, Value>;
  explicit Dict(Type type = Type::kDict) : Object(type) {}

  const std::vector<Entry>& entries() const { return entries_; }
  size_t size() const { return entries_.size(); }
  int depth() const { return depth_; }

  /// Steps of fuel that finding the key takes.
  int64_t Work(const Value& key) const;

  const Value* Find(std::string_view key) const;
  /// The value of any hashable key; null if there is none.
  const Value* Find(const Value& key) const;
  /// Sets the value, keeping the place of a key that is already there. The key must be hashable.
  void Set(const Value& key, Value value);

 private:
  size_t IndexOf(const Value& key) const;  // size() if absent
  size_t IndexOfString(std::string_view key) const;

  std::vector<Entry> entries_;
  int depth_ = 1;
  std::map<Value, size_t, KeyLess> index_;  // filled once there are many entries
};

class Range : public Object {
 public:
  Range(int64_t first, int64_t limit, int64_t stride);
  /// The member at `index`, 0 <= index < size.
  int64_t At(int64_t index) const {
    return static_cast<int64_t>(static_cast<uint64_t>(start) +
                                static_cast<uint64_t>(index) * static_cast<uint64_t>(step));
  }
  bool Contains(int64_t value) const;

  const int64_t start;
  const int64_t stop;
  const int64_t step;  // not 0
  const int64_t size;
};

class DictView : public Object {
 public:
  enum class Part { kKeys, kValues, kItems };
  DictView(const Dict& owner, Part which) : Object(Type::kDictView), dict(owner), part(which) {}
  const Dict& dict;
  const Part part;
};

/// Gives the next value, or nothing at the end.
using NextValue = std::function<absl::StatusOr<std::optional<Value>>()>;

class Iterator : public Object {
 public:
  Iterator(NextValue step, int nesting)
      : Object(Type::kIterator), next(std::move(step)), depth(nesting) {}
  const NextValue next;
  const int depth;  // of iterators that read iterators
};

/// An object with behaviour of its own.
class Native : public Object {
 public:
  Native() : Object(Type::kNative) {}
  virtual bool callable() const { return true; }
  /// How str() shows it.
  virtual std::string Describe() const = 0;
  virtual absl::StatusOr<Value> Call(Context& context, const Arguments& arguments);
  /// An attribute, or nothing if it has none of that name.
  virtual absl::StatusOr<std::optional<Value>> Attribute(Context& context, std::string_view name);
  /// len(), or nothing if it has none.
  virtual absl::StatusOr<std::optional<int64_t>> Length();
};

/// A function given by a lambda.
class Function : public Native {
 public:
  using Body = std::function<absl::StatusOr<Value>(Context&, const Arguments&)>;
  Function(std::string function_name, Body body)
      : name_(std::move(function_name)), body_(std::move(body)) {}
  std::string Describe() const override { return "<function " + name_ + ">"; }
  absl::StatusOr<Value> Call(Context& context, const Arguments& arguments) override {
    return body_(context, arguments);
  }

 private:
  std::string name_;
  Body body_;
};

/// The name Python gives the value's type, such as "str" or "NoneType".
std::string_view TypeName(const Value& value);

/// How deep lists, tuples, dicts or iterators are nested in the value; 0 for a scalar. The sandbox
/// bounds it where containers are made, so that recursion over members needs no check of its own.
int Depth(const Value& value);

enum class Order { kLess, kEqual, kGreater, kUnordered };

/// Orders two numbers, exactly, whatever their types.
Order CompareNumbers(const Value& left, const Value& right);

/// Whether the value may be the key of a dict.
bool IsHashable(const Value& value);

/// bool(value).
bool IsTruthy(const Value& value);

/// len(value). Fails on values that have none.
absl::StatusOr<int64_t> Length(const Value& value);

/// Whether iter() takes the value.
bool IsIterable(const Value& value);

/// Whether nothing in the value comes from a client.
bool AllTrusted(const Value& value);

}  // namespace tandem::frontend::jinja
