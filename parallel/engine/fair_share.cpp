#include "parallel/engine/fair_share.h"

#include <algorithm>

#include "core/base/check.h"

namespace tandem::parallel {
namespace {

// Clients that left in debt and are remembered: a flood of names must not fill the memory.
constexpr size_t kMostAbsent = 4096;

}  // namespace

void FairShare::Came(uint64_t client) {
  if (const auto found = present_.find(client); found != present_.end()) {
    ++found->second.requests;
    return;
  }
  double served = share_;
  if (const auto debt = absent_.find(client); debt != absent_.end()) {
    served = std::max(served, debt->second);
    absent_.erase(debt);
  }
  present_.emplace(client, Client{.served = served, .requests = 1});
}

void FairShare::Left(uint64_t client) {
  const auto found = present_.find(client);
  TANDEM_CHECK(found != present_.end(), "a client left that was not here");
  if (--found->second.requests > 0) return;
  const double served = found->second.served;
  present_.erase(found);
  // Of whoever had no more than its share, nothing needs to be remembered. With nobody left, all
  // start anew.
  if (present_.empty()) {
    absent_.clear();
    share_ = std::max(share_, served);
    return;
  }
  if (served <= share_) return;
  if (absent_.size() >= kMostAbsent) {
    std::erase_if(absent_, [this](const auto& entry) { return entry.second <= share_; });
  }
  if (absent_.size() >= kMostAbsent) absent_.clear();
  absent_[client] = served;
}

void FairShare::Charge(uint64_t client, int64_t tokens) {
  const auto found = present_.find(client);
  if (found == present_.end()) return;
  found->second.served += static_cast<double>(tokens);
  share_ += static_cast<double>(tokens) / static_cast<double>(present_.size());
}

}  // namespace tandem::parallel
