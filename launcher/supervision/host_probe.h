#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "launcher/options/options.h"

namespace tandem::launcher {

/// Looks whether a host can be reached, as mpirun would reach it, in a process of its own. Thread
/// safety: none.
class HostProbe {
 public:
  /// Of a host, with the remote shell of these options.
  HostProbe(const LaunchOptions& launch, std::string host);
  /// Ends it.
  ~HostProbe();
  HostProbe(const HostProbe&) = delete;
  HostProbe& operator=(const HostProbe&) = delete;

  const std::string& host() const { return host_; }
  /// Nothing as long as it is not known.
  std::optional<bool> Reached();

 private:
  const std::string host_;
  pid_t pid_ = -1;
};

}  // namespace tandem::launcher
