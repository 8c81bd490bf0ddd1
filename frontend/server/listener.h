#pragma once

#include <unistd.h>

#include <cstdint>
#include <string>
#include <utility>

#include "core/base/status.h"

namespace tandem::frontend {

/// Owns a descriptor.
class Socket {
 public:
  explicit Socket(int fd = -1) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  int fd() const { return fd_; }

 private:
  int fd_;
};

/// A socket that listens, and where. Movable; takes its file with it when it goes.
struct Listener {
  Listener() = default;
  Listener(Listener&& other) noexcept
      : socket(std::move(other.socket)),
        endpoint(std::move(other.endpoint)),
        path(std::exchange(other.path, {})) {}
  Listener& operator=(Listener&&) = delete;
  ~Listener() {
    if (!path.empty()) unlink(path.c_str());
  }

  Socket socket;
  std::string endpoint;  // with the address and port that it got
  std::string path;      // of an ipc:// endpoint in the file system
};

/// Listens without blocking, on tcp://HOST:PORT (an address, a name, a network interface, or * for
/// all; port * picks a free one) or ipc://PATH. kInvalidArgument for an endpoint that is none,
/// kFailedPrecondition where it cannot be had (port in use, no permission), each with one line that
/// says what to do.
absl::StatusOr<Listener> Listen(const std::string& endpoint);

/// Takes a connection that waits, without blocking its use later. Its kernel buffer for answers has
/// about `send_bytes`, and a peer whose host is gone ends it after some 20 seconds, with or without
/// data on the way. Without a descriptor: none waits, or none can be had (errno).
Socket Accept(const Listener& listener, int send_bytes);

}  // namespace tandem::frontend
