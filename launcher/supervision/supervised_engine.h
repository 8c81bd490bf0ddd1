#pragma once

#include "core/base/status.h"
#include "launcher/job/engine_body.h"
#include "launcher/options/cleanup_signals.h"
#include "launcher/options/options.h"

namespace tandem::launcher {

/// Runs `body` with an engine whose ranks are started by mpirun and reached over ZeroMQ. The job
/// ends with the body; if it ends before, the engine's requests fail with the reason that mpirun
/// gives, rank and host named. `signals`: what cleans up before a signal ends this process, or null
/// where none does.
absl::Status RunSupervised(const ModelOptions& model, const LaunchOptions& launch,
                           const EnginePreparation& prepare, const EngineBody& body,
                           CleanupSignals* signals);

}  // namespace tandem::launcher
