#pragma once

#include <string>
#include <string_view>

namespace tandem::testing {

/// Where a real model's file lies: in $TANDEM_MODELS, $XDG_CACHE_HOME/tandem/models or
/// ~/.cache/tandem/models. If it is not there, the current test fails, saying how to fetch it, and
/// the path is that of the first folder that was looked at.
std::string ModelPath(std::string_view file_name);

}  // namespace tandem::testing
