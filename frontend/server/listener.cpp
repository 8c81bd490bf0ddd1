#include "frontend/server/listener.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string_view>

#include "core/base/errno_text.h"
#include "core/system/file_kind.h"

namespace tandem::frontend {
namespace {

constexpr std::string_view kTcp = "tcp://";
constexpr std::string_view kIpc = "ipc://";
constexpr int kBacklog = 128;
// A silent peer is asked after this many seconds, and again, and is gone after as many more.
constexpr int kKeepAliveSeconds = 5;
constexpr int kKeepAliveProbes = 3;
constexpr int kUnacknowledgedMillis = 20'000;

absl::Status CannotListen(const std::string& endpoint, int error) {
  switch (error) {
    case EADDRINUSE:
      return FailedPrecondition(
          "cannot listen on {}: the address is in use; stop the server that has it, or choose "
          "another with --listen",
          endpoint);
    case EADDRNOTAVAIL:
      return FailedPrecondition(
          "cannot listen on {}: this host has no such address; use one of its own, 127.0.0.1 for "
          "this host only, or 0.0.0.0 for all networks",
          endpoint);
    case EINVAL:
      return InvalidArgument(
          "cannot listen on \"{}\": expected an endpoint like tcp://127.0.0.1:5555 or "
          "ipc:///run/tandem.sock",
          endpoint);
    default:
      return FailedPrecondition("cannot listen on {}: {}", endpoint, ErrnoText(error));
  }
}

struct Address {
  sockaddr_storage storage{};
  socklen_t bytes = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

/// The first IPv4 address of a network interface; false if there is none.
bool AddressOfInterface(const std::string& name, Address& out) {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return false;
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(list, freeifaddrs);
  for (const ifaddrs* each = list; each != nullptr; each = each->ifa_next) {
    if (name != each->ifa_name || each->ifa_addr == nullptr) continue;
    if (each->ifa_addr->sa_family != AF_INET) continue;
    out.bytes = sizeof(sockaddr_in);
    std::memcpy(&out.storage, each->ifa_addr, out.bytes);
    return true;
  }
  return false;
}

absl::StatusOr<Address> TcpAddress(const std::string& endpoint) {
  constexpr int kHighestPort = 65535;
  const size_t colon = endpoint.rfind(':');
  std::string host = endpoint.substr(kTcp.size(), colon - std::min(colon, kTcp.size()));
  const std::string port = endpoint.substr(colon + 1);
  const bool digits = !port.empty() && port.size() <= 5 &&
                      port.find_first_not_of("0123456789") == std::string::npos;
  const bool wanted = port == "*" || (digits && std::stoi(port) <= kHighestPort);
  if (colon <= kTcp.size() || !wanted) return CannotListen(endpoint, EINVAL);
  const auto number = static_cast<uint16_t>(port == "*" ? 0 : std::stoi(port));
  if (host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);

  Address address;
  if (!AddressOfInterface(host, address)) {
    addrinfo hints{};
    hints.ai_family = host.find(':') == std::string::npos ? AF_INET : AF_INET6;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_PASSIVE;
    addrinfo* found = nullptr;
    if (getaddrinfo(host == "*" ? nullptr : host.c_str(), "0", &hints, &found) != 0) {
      return CannotListen(endpoint, EADDRNOTAVAIL);
    }
    address.bytes = found->ai_addrlen;
    std::memcpy(&address.storage, found->ai_addr, address.bytes);
    freeaddrinfo(found);
  }
  if (address.storage.ss_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(&address.storage)->sin6_port = htons(number);
  } else {
    reinterpret_cast<sockaddr_in*>(&address.storage)->sin_port = htons(number);
  }
  return address;
}

/// A path at which a server that lives is left alone, and what one that died left is taken away.
absl::StatusOr<Address> IpcAddress(const std::string& endpoint) {
  const std::string path = endpoint.substr(kIpc.size());
  Address address;
  auto* unix_address = reinterpret_cast<sockaddr_un*>(&address.storage);
  unix_address->sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(unix_address->sun_path)) {
    return InvalidArgument("cannot listen on {}: expected a path of 1 to {} bytes after ipc://",
                           endpoint, sizeof(unix_address->sun_path) - 1);
  }
  std::memcpy(unix_address->sun_path, path.data(), path.size());
  address.bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
  if (path[0] == '@') {  // a name that is no file
    unix_address->sun_path[0] = '\0';
    --address.bytes;
    return address;
  }
  struct stat file {};
  if (lstat(path.c_str(), &file) != 0) return address;
  if (!S_ISSOCK(file.st_mode)) {
    return FailedPrecondition("cannot listen on {}: {} is {}, and no socket; name another path",
                              endpoint, path, FileKindText(file.st_mode));
  }
  const Socket probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connect(probe.fd(), address.get(), address.bytes) == 0) {
    return CannotListen(endpoint, EADDRINUSE);
  }
  unlink(path.c_str());
  return address;
}

/// tcp://ADDRESS:PORT of a socket that is bound.
std::string TcpEndpoint(int fd) {
  Address address;
  address.bytes = sizeof(address.storage);
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address.storage), &address.bytes) != 0 ||
      getnameinfo(address.get(), address.bytes, host.data(), host.size(), port.data(), port.size(),
                  NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return "";
  }
  const bool v6 = address.storage.ss_family == AF_INET6;
  return fmt::format("{}{}{}{}:{}", kTcp, v6 ? "[" : "", host.data(), v6 ? "]" : "", port.data());
}

void SetOption(int fd, int level, int option, int value) {
  (void)setsockopt(fd, level, option, &value, sizeof(value));
}

}  // namespace

absl::StatusOr<Listener> Listen(const std::string& endpoint) {
  const bool ipc = endpoint.starts_with(kIpc);
  if (!ipc && !endpoint.starts_with(kTcp)) return CannotListen(endpoint, EINVAL);
  TANDEM_ASSIGN_OR_RETURN(const Address address, ipc ? IpcAddress(endpoint) : TcpAddress(endpoint));
  Listener listener;
  listener.socket =
      Socket(socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int fd = listener.socket.fd();
  if (fd < 0) return CannotListen(endpoint, errno);
  SetOption(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (bind(fd, address.get(), address.bytes) != 0) return CannotListen(endpoint, errno);
  if (ipc && endpoint[kIpc.size()] != '@') {
    // The owner's alone before anybody can connect.
    listener.path = endpoint.substr(kIpc.size());
    (void)chmod(listener.path.c_str(), S_IRUSR | S_IWUSR);
  }
  if (listen(fd, kBacklog) != 0) return CannotListen(endpoint, errno);
  listener.endpoint = ipc ? endpoint : TcpEndpoint(fd);
  return listener;
}

Socket Accept(const Listener& listener, int send_bytes) {
  Socket socket(accept4(listener.socket.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  const int fd = socket.fd();
  if (fd < 0) return socket;
  SetOption(fd, SOL_SOCKET, SO_SNDBUF, send_bytes);
  SetOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  SetOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  SetOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, kKeepAliveSeconds);
  SetOption(fd, IPPROTO_TCP, TCP_KEEPINTVL, kKeepAliveSeconds);
  SetOption(fd, IPPROTO_TCP, TCP_KEEPCNT, kKeepAliveProbes);
  // The keep-alive rests while data is on its way.
  SetOption(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, kUnacknowledgedMillis);
  return socket;
}

}  // namespace tandem::frontend
