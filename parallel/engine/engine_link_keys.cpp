#include "parallel/engine/engine_link_keys.h"

#include <sodium.h>

#include <cstdlib>

namespace tandem::parallel {
namespace {

constexpr const char* kEndpointVariable = "TANDEM_LINK_ENDPOINT";
constexpr const char* kServerPublicVariable = "TANDEM_LINK_SERVER_PUBLIC";
constexpr const char* kServerSecretVariable = "TANDEM_LINK_SERVER_SECRET";
constexpr const char* kClientPublicVariable = "TANDEM_LINK_CLIENT_PUBLIC";

absl::StatusOr<std::string> Variable(const char* name) {
  const char* value = std::getenv(name);
  if (value != nullptr && *value != '\0') return std::string(value);
  return NotFound("the environment has no {}; start workers with tandem serve", name);
}

absl::StatusOr<std::string> KeyVariable(const char* name) {
  TANDEM_ASSIGN_OR_RETURN(std::string key, Variable(name));
  uint8_t raw[32];
  if (key.size() != 40 || zmq_z85_decode(raw, key.c_str()) == nullptr) {
    return InvalidArgument("{} in the environment is no key: expected 40 characters of Z85", name);
  }
  return key;
}

}  // namespace

EngineLinkKeys MakeEngineLinkKeys() {
  return {.server = kv_store::MakeCurveKeys(), .client = kv_store::MakeCurveKeys()};
}

std::string MakeLocalEndpoint() {
  return fmt::format("ipc://@tandem-engine-{:08x}{:08x}", randombytes_random(),
                     randombytes_random());
}

std::vector<std::pair<std::string, std::string>> LinkEnvironment(const std::string& endpoint,
                                                                 const EngineLinkKeys& keys) {
  return {{kEndpointVariable, endpoint},
          {kServerPublicVariable, keys.server.public_key},
          {kServerSecretVariable, keys.server.secret_key},
          {kClientPublicVariable, keys.client.public_key}};
}

absl::StatusOr<EngineServerAddress> LinkFromEnvironment() {
  EngineServerAddress address;
  TANDEM_ASSIGN_OR_RETURN(address.endpoint, Variable(kEndpointVariable));
  TANDEM_ASSIGN_OR_RETURN(address.keys.public_key, KeyVariable(kServerPublicVariable));
  TANDEM_ASSIGN_OR_RETURN(address.keys.secret_key, KeyVariable(kServerSecretVariable));
  TANDEM_ASSIGN_OR_RETURN(address.client_key, KeyVariable(kClientPublicVariable));
  return address;
}

}  // namespace tandem::parallel
