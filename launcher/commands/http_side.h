#pragma once

#include <memory>
#include <string>

#include "core/base/status.h"
#include "frontend/http/wire/http_listener.h"
#include "frontend/service/service.h"
#include "launcher/options/options.h"

namespace tandem::launcher {

/// What the gateway needs, found before the model's weights are read.
struct HttpPrepared {
  std::shared_ptr<frontend::HttpListener> listener;  // null: there is no gateway
  std::vector<std::string> keys;
  std::vector<std::string> hosts;    // as HostGuardOptions has them
  std::vector<std::string> origins;  // the same
  std::shared_ptr<std::FILE> access_log;
};

/// Listens and reads what the options name. Where the default address is taken it warns, and there
/// is no gateway. kInvalidArgument, kFailedPrecondition, naming the option.
absl::StatusOr<HttpPrepared> PrepareHttp(const HttpOptions& options, const OptionSources& sources);

/// Of the file descriptors that are left beside `other_descriptors`, which this process will still
/// open: as many as the gateway's connections may have, which are half of them at most.
int64_t HttpDescriptors(const HttpOptions& options, int64_t other_descriptors);

/// The HTTP gateway of a server, with its thread, as long as it lives: until the service has ended,
/// or has not begun.
class HttpSide {
 public:
  /// File descriptors without which it takes no connections.
  static constexpr int64_t kLeastDescriptors = 16;

  virtual ~HttpSide() = default;
  virtual const std::string& address() const = 0;

  /// Serves from now on. `model`: its file, whose name without the end is the model's over HTTP,
  /// where no other is asked for. `service`: Begin was called, or will be before long; it must
  /// outlive this. `other_descriptors`: file descriptors that others of this process will still
  /// open.
  static absl::StatusOr<std::unique_ptr<HttpSide>> Start(const HttpOptions& options,
                                                         const std::string& model,
                                                         HttpPrepared prepared,
                                                         frontend::Service& service,
                                                         int64_t other_descriptors);
};

}  // namespace tandem::launcher
