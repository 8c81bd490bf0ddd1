#pragma once

#include <string>
#include <system_error>

namespace tandem {

/// What an errno says. Thread safety: all functions, which strerror does not promise.
inline std::string ErrnoText(int error) { return std::generic_category().message(error); }

}  // namespace tandem
