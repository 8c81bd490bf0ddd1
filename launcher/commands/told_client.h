#pragma once

#include <memory>
#include <string>

#include "core/base/status.h"
#include "frontend/client/client.h"

namespace tandem::launcher {

/// Connects to a server that somebody named; says on stderr what it waits for, if it has to.
absl::StatusOr<std::unique_ptr<frontend::Client>> ConnectTold(const std::string& endpoint);

}  // namespace tandem::launcher
