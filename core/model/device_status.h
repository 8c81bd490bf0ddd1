#pragma once

#include <type_traits>

#include "core/base/status.h"
#include "core/model/device_failure.h"

namespace tandem::core {

/// What body() returns (a status, or a value that one can become), or kUnavailable with the words
/// of the DeviceFailure that ended it.
template <typename Body>
auto WithDeviceFailures(const Body& body) {
  using Result = std::invoke_result_t<Body>;
  if constexpr (std::is_void_v<Result>) {
    return WithDeviceFailures([&body] {
      body();
      return absl::OkStatus();
    });
  } else {
    try {
      return body();
    } catch (const DeviceFailure& failure) {
      return Result(absl::UnavailableError(failure.what()));
    }
  }
}

/// Throws an error of a device's memory on, to whoever uses WithDeviceFailures.
inline void ThrowDeviceFailure(const absl::Status& status) {
  if (!status.ok()) throw DeviceFailure(Message(status));
}

}  // namespace tandem::core
