#pragma once

#include <cstddef>
#include <vector>

#include "kv_store/export/signing_key.h"

namespace tandem::testing {

/// A key that everybody knows.
kv_store::SigningKey TestSigningKey();

/// The same bytes as an exported file whose magic, version, record checksums, signer and signature
/// are right, as far as there is one in them, so that what stands behind those checks is reached.
std::vector<std::byte> SignedExport(std::vector<std::byte> bytes);

}  // namespace tandem::testing
