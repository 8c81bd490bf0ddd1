#include <nlohmann/json.hpp>

#include "core/base/counted.h"
#include "core/system/standard_output.h"
#include "frontend/client/client.h"
#include "launcher/commands/commands.h"
#include "launcher/commands/json_output.h"
#include "launcher/commands/told_client.h"

namespace tandem::launcher {

absl::Status Scale(const ScaleOptions& options) {
  const auto client = ConnectTold(options.connect);
  if (!client.ok()) return options.sources.Blame("--connect", client.status());
  TANDEM_ASSIGN_OR_RETURN(const nlohmann::json scale, (*client)->Scale(options.ranks));
  if (options.json) {
    WriteOutput(JsonText(scale));
  } else {
    PrintOutput("{} from now on, as epoch {}, after {:.2f} s\n",
                Counted(scale.value("ranks", 0), "rank"), scale.value("epoch", 0),
                scale.value("seconds", 0.0));
  }
  return absl::OkStatus();
}

}  // namespace tandem::launcher
