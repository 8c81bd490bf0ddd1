#pragma once

#include <string>

namespace tandem::launcher {

/// Processors of this machine that are there to be used, at least 1.
int ProcessorsOfThisMachine();
/// The processor's name as the system gives it, "unknown" where it gives none.
std::string ProcessorName();
/// Whether memory gets transparent huge pages: "always", "madvise" (we ask), "never"; "unknown"
/// where the system does not say.
std::string HugePagesSetting();

}  // namespace tandem::launcher
