#pragma once

#include <string>
#include <string_view>

namespace tandem::frontend {

/// Unicode's normalization form C of valid UTF-8, in linear time (but for the sorting of long runs
/// of combining marks). Source: Unicode Standard Annex 15.
std::string NormalizeNfc(std::string_view text);

}  // namespace tandem::frontend
