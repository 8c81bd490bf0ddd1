#pragma once

#include <iosfwd>
#include <string>

#include "core/base/status.h"
#include "kv_store/base/zmq_tools.h"

namespace tandem::parallel {

/// Who may talk to whom on one engine link; made by the gateway for each start of the rank job.
struct EngineLinkKeys {
  kv_store::CurveKeys server;
  kv_store::CurveKeys client;
};
EngineLinkKeys MakeEngineLinkKeys();

/// A fresh endpoint for both ends on this host: an abstract Unix socket, which leaves no file.
std::string MakeLocalEndpoint();

/// What rank 0 must know to serve the link.
struct EngineServerAddress {
  std::string endpoint;      // "ipc://@name" or "tcp://127.0.0.1:*"
  kv_store::CurveKeys keys;  // the server's
  std::string client_key;    // public; nobody else may connect
};

/// The same as lines of text for rank 0's standard input, which mpirun passes on to it: other
/// processes can read neither that nor, unlike an environment, find it later.
std::string LinkText(const std::string& endpoint, const EngineLinkKeys& keys);
/// Reads them back. kNotFound if a line is missing; kInvalidArgument for a key that is none.
absl::StatusOr<EngineServerAddress> ReadLink(std::istream& in);

}  // namespace tandem::parallel
