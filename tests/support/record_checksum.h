#pragma once

#include <cstddef>
#include <vector>

namespace tandem::testing {

/// The same bytes with the checksum of a KV record that is right for them, so that what stands
/// behind that check is reached. Shorter than a header: as they are.
std::vector<std::byte> WithRecordChecksum(std::vector<std::byte> record);

}  // namespace tandem::testing
