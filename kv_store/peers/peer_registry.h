#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "kv_store/agent_link/agent_codec.h"
#include "kv_store/base/zmq_tools.h"

namespace tandem::kv_store {

/// An agent of another host, as this host's remembers it.
struct KnownPeer {
  AgentPeer peer;
  bool in_job = false;  // of the last job that this host was in
  int64_t met = 0;      // when, in seconds since 1970
};

/// The text of a peer's file: a title, endpoint, key, 0 or 1 (in_job), and when it was met, a line
/// each. Decode: kDataLoss or kInvalidArgument, saying what is wrong, for everything else.
std::string EncodePeer(const KnownPeer& known);
absl::StatusOr<KnownPeer> DecodePeer(const std::string& host, std::string_view text);

/// What an agent keeps on disk of itself and of other hosts' agents, each file checked when read:
/// - `agent.key`, its CURVE key pair, made at first;
/// - `listens`, where it listens for other hosts, if it was told to;
/// - `peers/HOST`, a file for each host that it has met. Who removes one makes it drop the host.
/// Thread safety: none.
class PeerRegistry {
 public:
  /// directory: the agent's, `kv/HOST`. Errors: no key can be kept.
  static absl::StatusOr<PeerRegistry> Open(const std::string& directory);

  const std::string& directory() const { return directory_; }
  const std::string& host() const { return host_; }  // the directory's name
  const CurveKeys& keys() const { return keys_; }

  /// Those of the last job first, then those met last; at most kMostAgentPeers. Files that are
  /// none are left out, and the log says so.
  std::vector<KnownPeer> Peers() const;
  /// Writes what Peers gives from now on, and removes the others' files.
  absl::Status SetPeers(std::vector<KnownPeer> peers) const;
  /// Changes whenever a peer's file comes or goes.
  int64_t Stamp() const;
  /// Where the file of a host lies.
  std::string PathOf(const std::string& host) const { return directory_ + "/peers/" + host; }

  struct Listens {
    std::string endpoint;
    uint32_t copies = 1;  // AgentIntroduction
  };
  std::optional<Listens> ReadListens() const;
  absl::Status WriteListens(const Listens& listens) const;

 private:
  PeerRegistry(std::string directory, std::string host, CurveKeys keys)
      : directory_(std::move(directory)), host_(std::move(host)), keys_(std::move(keys)) {}

  /// As MakeWay names what is in the way of a host's file.
  std::string AsideOf(const std::string& host) const { return directory_ + "/peers." + host; }

  std::string directory_;
  std::string host_;
  CurveKeys keys_;
};

}  // namespace tandem::kv_store
