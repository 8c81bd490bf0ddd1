#include "core/model/config.h"

#include <bit>
#include <numeric>

#include "core/base/double_math.h"
#include "core/model/shard.h"

namespace tandem::core {

bool ModelConfig::HasNorm(std::string_view norm_name) const {
  const auto first = parts.lower_bound(norm_name);
  return first != parts.end() && first->starts_with(norm_name) &&
         first->substr(norm_name.size(), 1) == ".";
}

bool ModelConfig::HasFeedForwardNorm() const {
  return !parallel_residual || TraitsOf(family).feed_forward_norm == FeedForwardNorm::kAlways;
}

int ModelConfig::heads_per_partial_sum() const { return 32 / std::gcd(head_dim, 32); }

std::vector<float> AlibiSlopes(float max_bias, int heads) {
  std::vector<float> slopes;
  if (max_bias == 0.0F) return slopes;
  const int whole = static_cast<int>(std::bit_floor(static_cast<unsigned>(heads)));
  for (int head = 0; head < heads; ++head) {
    const double steps = head < whole ? 2.0 * (head + 1) : 2.0 * (head - whole) + 1.0;
    slopes.push_back(static_cast<float>(Pow(2.0, -double{max_bias} * steps / (2.0 * whole))));
  }
  return slopes;
}

Shard WholeModel(const ModelConfig& config) {
  return {{0, config.heads}, {0, config.kv_heads}, {0, config.ffn_dim}, {0, config.vocab}};
}

}  // namespace tandem::core
