#pragma once

#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "core/base/status.h"
#include "frontend/http/gateway.h"
#include "frontend/http/service_backend.h"
#include "launcher/options/options.h"

namespace tandem::launcher {

/// What the gateway's options name, found before the model is read: clients that come early wait.
struct HttpPreparation {
  std::optional<frontend::HttpListener> listener;  // none: there is no gateway
  frontend::GatewayOptions options;
};

/// Listens and reads the file of keys. Where the default address is taken it warns, and there is no
/// gateway. Errors name the option: kInvalidArgument, kFailedPrecondition, those of ReadSmallFile.
absl::StatusOr<HttpPreparation> PrepareHttp(const HttpOptions& options,
                                            const OptionSources& sources);

/// The gateway on a thread of its own, for as long as this lives. Thread safety: one thread.
class HttpSide {
 public:
  /// The service must outlive it.
  static absl::StatusOr<std::unique_ptr<HttpSide>> Start(HttpPreparation preparation,
                                                         frontend::Service& service);
  /// The service has ended: what it said last is sent.
  ~HttpSide();
  HttpSide(const HttpSide&) = delete;
  HttpSide& operator=(const HttpSide&) = delete;

  const std::string& address() const { return gateway_->address(); }

 private:
  explicit HttpSide(frontend::Service& service) : backend_(service) {}

  frontend::ServiceBackend backend_;
  std::unique_ptr<frontend::Gateway> gateway_;
  std::thread thread_;
};

}  // namespace tandem::launcher
