#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>

namespace tandem::parallel {

/// What each client has been served so far. The client that has had least goes first, so clients
/// get equal shares however many requests each of them sends.
///
/// A client that comes (back) starts at what the least served of the present ones has had: absence
/// earns no credit. Source: Sheng et al. 2024, "Fairness in Serving Large Language Models" (virtual
/// token counter). Thread safety: none.
class FairShare {
 public:
  /// A request of this client came, or ended.
  void Came(uint64_t client);
  void Left(uint64_t client);
  /// So many tokens, in units of one prompt token, were computed for it.
  void Charge(uint64_t client, int64_t tokens);

  /// Of a client with requests here.
  int64_t served(uint64_t client) const { return present_.at(client).served; }
  size_t known() const { return present_.size() + absent_.size(); }

 private:
  struct Client {
    int64_t served = 0;
    int64_t requests = 0;
  };
  int64_t LeastServed();

  std::unordered_map<uint64_t, Client> present_;
  std::unordered_map<uint64_t, int64_t> absent_;  // served more than the least when they left
  int64_t least_ = 0;  // what the least served of the present has had, as last seen
};

}  // namespace tandem::parallel
