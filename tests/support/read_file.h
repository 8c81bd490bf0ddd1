#pragma once

#include <string>

namespace tandem::testing {

/// The bytes of a file; the test fails where it cannot be read.
std::string ReadFile(const std::string& path);

}  // namespace tandem::testing
