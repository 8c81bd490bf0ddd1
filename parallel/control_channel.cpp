#include "parallel/control_channel.h"

namespace tandem::parallel {

absl::Status LostRank(int rank, const std::string& host, const std::string& how) {
  return Unavailable("rank {} on host {} {}", rank, host, how);
}

}  // namespace tandem::parallel
