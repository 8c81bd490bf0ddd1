#include "frontend/jinja/values/sort.h"

#include <algorithm>

#include "frontend/jinja/values/compare.h"

namespace tandem::frontend::jinja {

absl::StatusOr<std::vector<size_t>> SortedOrder(Sandbox& sandbox, const std::vector<Value>& keys,
                                                bool reverse) {
  std::vector<size_t> order(keys.size());
  for (size_t index = 0; index < order.size(); ++index) {
    order[index] = index;
  }
  std::vector<size_t> merged(order.size());
  for (size_t width = 1; width < order.size(); width *= 2) {
    for (size_t begin = 0; begin < order.size(); begin += 2 * width) {
      const size_t middle = std::min(begin + width, order.size());
      const size_t end = std::min(begin + 2 * width, order.size());
      size_t left = begin;
      size_t right = middle;
      for (size_t out = begin; out < end; ++out) {
        bool take_right = left == middle;
        if (left < middle && right < end) {
          const Value& one = keys[order[left]];
          const Value& other = keys[order[right]];
          TANDEM_ASSIGN_OR_RETURN(const Order compared, Compare(sandbox, other, one));
          take_right = compared == (reverse ? Order::kGreater : Order::kLess);
        }
        merged[out] = order[take_right ? right++ : left++];
      }
    }
    order.swap(merged);
  }
  return order;
}

}  // namespace tandem::frontend::jinja
