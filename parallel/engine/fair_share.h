#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>

namespace tandem::parallel {

/// What each client has been served so far, in tokens or bytes. Whoever would have had least at the
/// end of its next piece of work goes first. So clients get equal shares however many requests each
/// of them sends, and short pieces pass long ones.
///
/// A client that comes (back) starts at what each of the present ones would have had if all had
/// been served alike: absence earns no credit, and newcomers without end cannot pass somebody for
/// ever. Sources: Demers, Keshav, Shenker 1989 (fair queuing, its virtual time); Sheng et al. 2024,
/// "Fairness in Serving Large Language Models" (tokens as the measure). Thread safety: none.
class FairShare {
 public:
  /// A request of this client came, or ended.
  void Came(uint64_t client);
  void Left(uint64_t client);
  /// So many were computed (or read) for it, in units of one prompt token (or byte).
  void Charge(uint64_t client, int64_t tokens);

  /// Of a client with requests here.
  double served(uint64_t client) const { return present_.at(client).served; }
  size_t known() const { return present_.size() + absent_.size(); }

 private:
  struct Client {
    double served = 0;
    int64_t requests = 0;
  };

  std::unordered_map<uint64_t, Client> present_;
  std::unordered_map<uint64_t, double> absent_;  // served more than their share when they left
  double share_ = 0;  // what each of the present would have had, served alike
};

}  // namespace tandem::parallel
