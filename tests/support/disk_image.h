#pragma once

#include <string>

namespace tandem::testing {

/// Copies a directory that a database is using, as it lies on the disk at one moment: what a
/// kill -9 would leave. The database may rename and remove files meanwhile, so this is repeated
/// until nothing changed; throws std::runtime_error where that takes more than 10 seconds.
void CopyAsOfAMoment(const std::string& from, const std::string& to);

}  // namespace tandem::testing
