#pragma once

#include <cstdint>

#include "core/base/status.h"
#include "launcher/job/engine_body.h"
#include "launcher/options/cleanup_signals.h"
#include "launcher/options/options.h"

namespace tandem::launcher {

/// Runs `body` with an engine of as many ranks as asked for: in this process (one rank, or a rank
/// of mpirun's), or in ranks that are started by mpirun and reached over ZeroMQ. `descriptors`:
/// that the body needs; without them the engine is not begun. `signals`: what cleans up before a
/// signal ends this process, or null where none does.
absl::Status WithEngine(const ModelOptions& model, const LaunchOptions& launch,
                        const EngineBody& body, const EnginePreparation& prepare = {},
                        int64_t descriptors = 0, CleanupSignals* signals = nullptr);

}  // namespace tandem::launcher
