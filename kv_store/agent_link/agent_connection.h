#pragma once

#include <memory>

#include "kv_store/agent_link/agent_codec.h"
#include "kv_store/agent_link/agent_directory.h"
#include "kv_store/base/zmq_tools.h"

namespace tandem::kv_store {

/// A client's end of a connection to an agent, to be connected. Thread safety: none.
struct AgentConnection {
  AgentConnection(zmq::context_t& context, DisconnectMonitor::Watch watch)
      : socket(context, zmq::socket_type::dealer), monitor(context, socket, watch) {
    SocketLimits limits;
    limits.largest_message = 2 * static_cast<int64_t>(kLargestAgentFrame);
    SetSafeOptions(socket, limits);
  }

  std::shared_ptr<const AgentDirectory> directory;  // that it is in; null: in none
  zmq::socket_t socket;
  DisconnectMonitor monitor;
};

}  // namespace tandem::kv_store
