#pragma once

#include <stdexcept>

namespace tandem::core {

/// A device failed while it computed: a GPU that fell off the bus, a kernel that it ended. what()
/// is one line that names host, device and call. Operations and the memory of a device throw it;
/// the model makes a status of it, so that it does not leave this folder. Nothing that a device
/// gives after it has failed is used.
class DeviceFailure final : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace tandem::core
