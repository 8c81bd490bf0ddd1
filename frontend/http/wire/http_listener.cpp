#include "frontend/http/wire/http_listener.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <charconv>

namespace tandem::frontend {
namespace {

using ListenTcp = boost::asio::ip::tcp;

absl::StatusOr<ListenTcp::endpoint> ReadHttpAddress(const std::string& text) {
  const absl::Status wrong = InvalidArgument(
      "--http {}: expected ADDRESS:PORT, as in 127.0.0.1:8080, [::1]:8080, or 0.0.0.0:8080 for all "
      "networks",
      text);
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos) return wrong;
  std::string host = text.substr(0, colon);
  const std::string port_text = text.substr(colon + 1);
  uint16_t port = 0;
  if (port_text != "*") {
    const char* end = port_text.data() + port_text.size();
    const auto [last, error] = std::from_chars(port_text.data(), end, port);
    if (error != std::errc() || last != end) return wrong;
  }
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  if (host == "localhost") host = "127.0.0.1";
  if (host == "*") host = "0.0.0.0";
  boost::system::error_code error;
  const boost::asio::ip::address address = boost::asio::ip::make_address(host, error);
  if (error) return wrong;
  return ListenTcp::endpoint(address, port);
}

std::string ListenText(const ListenTcp::endpoint& endpoint) {
  const auto address = endpoint.address();
  boost::system::error_code error;
  const std::string text = address.to_string(error);
  return address.is_v6() ? fmt::format("[{}]:{}", text, endpoint.port())
                         : fmt::format("{}:{}", text, endpoint.port());
}

}  // namespace

absl::StatusOr<HttpListener> ListenForHttp(const std::string& address) {
  TANDEM_ASSIGN_OR_RETURN(const ListenTcp::endpoint endpoint, ReadHttpAddress(address));
  boost::asio::io_context context;
  ListenTcp::acceptor acceptor(context);
  boost::system::error_code error;
  acceptor.open(endpoint.protocol(), error);
  // Asio does not see to it: a program that is started later would keep the port.
  if (!error) fcntl(acceptor.native_handle(), F_SETFD, FD_CLOEXEC);
  if (!error) acceptor.set_option(ListenTcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(boost::asio::socket_base::max_listen_connections, error);
  ListenTcp::endpoint bound;
  if (!error) bound = acceptor.local_endpoint(error);
  int fd = -1;
  if (!error) fd = acceptor.release(error);
  if (error) {
    return FailedPrecondition("--http {}: cannot listen there: {}; choose another port or address",
                              address, error.message());
  }
  HttpListener listener;
  listener.socket = Socket(fd);
  listener.address = ListenText(bound);
  listener.loopback = bound.address().is_loopback();
  listener.version_6 = bound.address().is_v6();
  return listener;
}

}  // namespace tandem::frontend
