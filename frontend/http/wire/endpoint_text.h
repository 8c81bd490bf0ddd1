#pragma once

#include <fmt/format.h>

#include <boost/asio/ip/tcp.hpp>
#include <string>

namespace tandem::frontend {

/// "127.0.0.1:8080", "[::1]:8080".
inline std::string EndpointText(const boost::asio::ip::tcp::endpoint& endpoint) {
  const auto address = endpoint.address();
  boost::system::error_code error;
  const std::string text = address.to_string(error);
  return address.is_v6() ? fmt::format("[{}]:{}", text, endpoint.port())
                         : fmt::format("{}:{}", text, endpoint.port());
}

}  // namespace tandem::frontend
