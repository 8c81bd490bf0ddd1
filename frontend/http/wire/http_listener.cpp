#include "frontend/http/wire/http_listener.h"

#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <charconv>
#include <utility>

#include "frontend/http/wire/endpoint_text.h"

namespace tandem::frontend {
namespace {

using Tcp = boost::asio::ip::tcp;

absl::StatusOr<Tcp::endpoint> ReadAddress(const std::string& text) {
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
  return Tcp::endpoint(address, port);
}

}  // namespace

absl::StatusOr<HttpListener> HttpListener::Listen(const std::string& address) {
  TANDEM_ASSIGN_OR_RETURN(const Tcp::endpoint endpoint, ReadAddress(address));
  boost::asio::io_context context{1};
  Tcp::acceptor acceptor(context);
  boost::system::error_code error;
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(Tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(boost::asio::socket_base::max_listen_connections, error);
  Tcp::endpoint bound;
  if (!error) bound = acceptor.local_endpoint(error);
  HttpListener listener;
  if (!error) listener.socket_ = acceptor.release(error);
  if (error) {
    return FailedPrecondition("--http {}: cannot listen there: {}; choose another port or address",
                              address, error.message());
  }
  listener.address_ = EndpointText(bound);
  listener.loopback_ = bound.address().is_loopback();
  listener.ipv6_ = bound.address().is_v6();
  return listener;
}

HttpListener::HttpListener(HttpListener&& other) noexcept
    : socket_(std::exchange(other.socket_, -1)),
      address_(std::move(other.address_)),
      loopback_(other.loopback_),
      ipv6_(other.ipv6_) {}

HttpListener& HttpListener::operator=(HttpListener&& other) noexcept {
  std::swap(socket_, other.socket_);
  std::swap(address_, other.address_);
  std::swap(loopback_, other.loopback_);
  std::swap(ipv6_, other.ipv6_);
  return *this;
}

HttpListener::~HttpListener() {
  if (socket_ >= 0) close(socket_);
}

int HttpListener::Release() { return std::exchange(socket_, -1); }

}  // namespace tandem::frontend
