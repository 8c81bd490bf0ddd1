#include "parallel/engine/engine_link_keys.h"

#include <sodium.h>

#include <istream>

namespace tandem::parallel {
namespace {

absl::Status CheckKey(const std::string& key) {
  uint8_t raw[32];
  if (key.size() == 40 && zmq_z85_decode(raw, key.c_str()) != nullptr) return absl::OkStatus();
  return InvalidArgument("engine link: a key is none: expected 40 characters of Z85");
}

}  // namespace

EngineLinkKeys MakeEngineLinkKeys() {
  return {.server = kv_store::MakeCurveKeys(), .client = kv_store::MakeCurveKeys()};
}

std::string MakeLocalEndpoint() {
  return fmt::format("ipc://@tandem-engine-{:08x}{:08x}", randombytes_random(),
                     randombytes_random());
}

std::string LinkText(const std::string& endpoint, const EngineLinkKeys& keys) {
  return fmt::format("{}\n{}\n{}\n{}\n", endpoint, keys.server.public_key, keys.server.secret_key,
                     keys.client.public_key);
}

absl::StatusOr<EngineServerAddress> ReadLink(std::istream& in) {
  EngineServerAddress address;
  for (std::string* line : {&address.endpoint, &address.keys.public_key, &address.keys.secret_key,
                            &address.client_key}) {
    if (!std::getline(in, *line) || line->empty()) {
      return NotFound(
          "engine link: standard input does not say where to listen; start workers with tandem "
          "serve, and let mpirun pass its input on");
    }
  }
  for (const std::string* key :
       {&address.keys.public_key, &address.keys.secret_key, &address.client_key}) {
    TANDEM_RETURN_IF_ERROR(CheckKey(*key));
  }
  return address;
}

}  // namespace tandem::parallel
