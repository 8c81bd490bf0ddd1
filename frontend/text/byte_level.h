#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tandem::frontend {

/// Byte-level vocabularies spell every byte as one printable character: itself where it is
/// printable Latin-1 (other than the space and the soft hyphen), else U+0100 and on.
/// Source: Radford et al. 2019 (GPT-2), bytes_to_unicode.

/// The spelling of one byte, UTF-8.
std::string ByteLevelSpelling(uint8_t byte);

/// The bytes that such a spelling stands for; nothing if a character of it stands for no byte.
std::optional<std::string> ByteLevelBytes(std::string_view spelling);

}  // namespace tandem::frontend
