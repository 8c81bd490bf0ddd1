#pragma once

#include <string>

namespace tandem::core {

/// This machine's name as the system gives it, "unknown" where it gives none.
std::string HostName();

}  // namespace tandem::core
