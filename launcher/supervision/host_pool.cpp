#include "launcher/supervision/host_pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <utility>

namespace tandem::launcher {
namespace {

constexpr int kMostSlots = 1 << 16;

/// The number behind "slots=", or 1.
int SlotsOf(const std::string& rest) {
  constexpr std::string_view kSlots = " slots=";
  const size_t at = rest.find(kSlots);
  if (at == std::string::npos) return 1;
  return std::clamp(std::atoi(rest.c_str() + at + kSlots.size()), 1, kMostSlots);
}

}  // namespace

std::vector<HostLine> ReadHostLines(const std::string& text) {
  std::vector<HostLine> hosts;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream in(line.substr(0, line.find('#')));
    HostLine host;
    if (!(in >> host.name)) continue;
    for (std::string word; in >> word;) host.rest += " " + word;
    host.slots = SlotsOf(host.rest);
    hosts.push_back(std::move(host));
  }
  return hosts;
}

HostPool::HostPool(std::vector<HostLine> hosts, std::vector<std::string> spares, int ranks,
                   bool fewer_ranks)
    : hosts_(std::move(hosts)),
      spares_(std::move(spares)),
      ranks_(ranks),
      fewer_ranks_(fewer_ranks) {}

bool HostPool::Lose(const std::string& name) {
  const bool ours = std::any_of(hosts_.begin() + 1, hosts_.end(),
                                [&](const HostLine& host) { return host.name == name; }) ||
                    std::find(spares_.begin(), spares_.end(), name) != spares_.end();
  return ours && name != hosts_.front().name && lost_.insert(name).second;
}

bool HostPool::Find(const std::string& name) { return lost_.erase(name) > 0; }

std::optional<HostPool::Plan> HostPool::Next() const {
  Plan plan;
  std::vector<std::string> spares;
  for (const std::string& spare : spares_) {
    if (!lost_.contains(spare)) spares.push_back(spare);
  }
  int slots = 0;
  int slots_left = 0;
  auto spare = spares.begin();
  for (const HostLine& host : hosts_) {
    slots += host.slots;
    HostLine taken = host;
    if (lost_.contains(host.name)) {
      if (spare == spares.end()) continue;
      taken.name = *spare++;
    }
    slots_left += host.slots;
    plan.hosts.push_back(std::move(taken));
  }
  plan.ranks = std::max(1, static_cast<int>(int64_t{ranks_} * slots_left / slots));
  if (plan.ranks < ranks_ && !fewer_ranks_) return std::nullopt;
  return plan;
}

std::string HostPool::Plan::Text() const {
  std::string text;
  for (const HostLine& host : hosts) text += fmt::format("{}{}\n", host.name, host.rest);
  return text;
}

}  // namespace tandem::launcher
