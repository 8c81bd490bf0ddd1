#include "launcher/supervision/supervised_engine.h"

#include "launcher/option_tables/rank_command.h"
#include "launcher/options/stop_signals.h"
#include "launcher/supervision/rank_life.h"
#include "launcher/supervision/supervisor.h"

namespace tandem::launcher {

absl::Status RunSupervised(const ModelOptions& model, const LaunchOptions& launch,
                           const EnginePreparation& prepare, const EngineBody& body,
                           CleanupSignals* signals) {
  TANDEM_ASSIGN_OR_RETURN(const auto file, CheckRanks(model, launch));
  if (prepare) TANDEM_RETURN_IF_ERROR(prepare(*file));
  RankLifeOrder order{.model = model,
                      .launch = launch,
                      .epoch = 1,
                      .keep_waiting = [] { return StopSignals::CheckPending(); },
                      .on_gone = {},
                      .signals = signals};
  if (launch.max_restarts == 0) {
    TANDEM_ASSIGN_OR_RETURN(const std::unique_ptr<RankLife> life, RankLife::Start(order));
    return life->End(body(*life->engine(), *file));
  }
  TANDEM_ASSIGN_OR_RETURN(const std::unique_ptr<Supervisor> supervisor, Supervisor::Start(order));
  return supervisor->End(body(supervisor->engine(), *file));
}

}  // namespace tandem::launcher
