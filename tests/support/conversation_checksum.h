#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

namespace tandem::testing {

/// A record of a conversation from its version and fields, with the checksum of its place as
/// docs/state.md says.
std::vector<std::byte> WithConversationChecksum(std::string_view place,
                                                std::span<const std::byte> versioned);

}  // namespace tandem::testing
