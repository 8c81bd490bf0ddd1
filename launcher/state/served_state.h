#pragma once

#include <memory>
#include <string>

#include "core/base/status.h"
#include "frontend/conversations/conversation_log.h"
#include "frontend/service/service.h"
#include "launcher/options/options.h"
#include "launcher/state/state_directory.h"

namespace tandem::launcher {

/// What outlives `tandem serve --state DIR`, opened.
class ServedState {
 public:
  /// Takes the directory and reads the conversations in it. `endpoint`: where the server will
  /// listen.
  static absl::StatusOr<std::unique_ptr<ServedState>> Open(const StateOptions& options,
                                                           const std::string& endpoint);
  virtual ~ServedState() = default;

  /// Once the agents of the job's hosts have met, and before anything else: looks at the copies
  /// that hosts have. Where there are no conversations here, it goes on with a copy. From then on
  /// changes are written, and copied. kFailedPrecondition, saying what to do, if somebody else went
  /// on with these, or if it is not clear which to go on with.
  virtual absl::Status Settle() = 0;

  /// Below: after Settle.
  virtual frontend::ConversationLog& log() = 0;
  /// Gives the conversations that were found to a service that has not begun.
  virtual void RestoreTo(frontend::Service& service) = 0;
  virtual StateDirectory& directory() = 0;
};

}  // namespace tandem::launcher
