#pragma once

#include <functional>
#include <string_view>

namespace tandem::core {

/// Called now and then by long work; fraction in [0, 1]. May be empty.
using Progress = std::function<void(double fraction, std::string_view what)>;

}  // namespace tandem::core
