#include "parallel/request_queue.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace tandem::parallel {

void RequestQueue::Add(WaitingRequest request) {
  const RequestId id = request.state.id;
  waiting_.emplace(id, std::move(request));
}

std::optional<WaitingRequest> RequestQueue::Take(RequestId id) {
  auto node = waiting_.extract(id);
  if (node.empty()) return std::nullopt;
  return std::move(node.mapped());
}

std::vector<WaitingRequest*> RequestQueue::InOrder(const ClientTurns& turns) {
  using Key = std::tuple<int32_t, bool, int64_t, RequestId>;
  std::vector<std::pair<Key, WaitingRequest*>> order;
  order.reserve(waiting_.size());
  for (auto& [id, waiting] : waiting_) {
    const EngineRequest& request = waiting.state.request;
    order.emplace_back(
        Key{-request.priority, waiting.state.preemptions == 0, turns.served(request.client), id},
        &waiting);
  }
  std::sort(order.begin(), order.end());
  std::vector<WaitingRequest*> requests;
  requests.reserve(order.size());
  for (const auto& [key, request] : order) requests.push_back(request);
  return requests;
}

}  // namespace tandem::parallel
