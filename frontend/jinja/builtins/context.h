#pragma once

#include <ctime>
#include <string_view>

#include "core/base/status.h"
#include "frontend/jinja/values/sandbox.h"
#include "frontend/jinja/values/value.h"

namespace tandem::frontend::jinja {

/// What functions, methods, filters and tests see of the rendering that calls them. Not
/// thread-safe.
class Context {
 public:
  /// `now` is what strftime_now tells.
  Context(Sandbox& sandbox, const std::tm& now) : sandbox_(sandbox), now_(now) {}
  virtual ~Context() = default;
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  Sandbox& sandbox() { return sandbox_; }
  const std::tm& now() const { return now_; }

  virtual absl::StatusOr<Value> ApplyFilter(std::string_view name, const Value& subject,
                                            const Arguments& arguments) = 0;
  virtual absl::StatusOr<bool> ApplyTest(std::string_view name, const Value& subject,
                                         const Arguments& arguments) = 0;
  /// object.name: attributes before items.
  virtual absl::StatusOr<Value> GetAttribute(const Value& object, std::string_view name) = 0;
  /// object[key]: items before attributes.
  virtual absl::StatusOr<Value> GetItem(const Value& object, const Value& key) = 0;

 private:
  Sandbox& sandbox_;
  const std::tm now_;
};

}  // namespace tandem::frontend::jinja
