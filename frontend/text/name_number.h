#pragma once

#include <cstdint>
#include <string_view>

namespace tandem::frontend {

/// The engine and its stores know clients and tenants by number, a hash of the name; the nameless
/// one is 0.
uint64_t NumberOf(std::string_view name);

}  // namespace tandem::frontend
