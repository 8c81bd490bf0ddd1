#include "parallel/schedule/request_queue.h"

#include <algorithm>
#include <functional>

namespace tandem::parallel {

void RequestQueue::Add(WaitingRequest request) {
  const RequestId id = request.state.id;
  ++priorities_[request.state.request.priority];
  waiting_.emplace(id, std::move(request));
}

std::optional<WaitingRequest> RequestQueue::Take(RequestId id) {
  auto node = waiting_.extract(id);
  if (node.empty()) return std::nullopt;
  const auto count = priorities_.find(node.mapped().state.request.priority);
  if (--count->second == 0) priorities_.erase(count);
  return std::move(node.mapped());
}

WaitingRequest* RequestQueue::Find(RequestId id) {
  const auto found = waiting_.find(id);
  return found == waiting_.end() ? nullptr : &found->second;
}

RequestQueue::Order RequestQueue::InOrder(const FairShare& turns, const TokensOfClients& ahead) {
  Order order;
  order.heap_.reserve(waiting_.size());
  std::map<int32_t, TokensOfClients> sums;  // by priority
  for (auto& [id, waiting] : waiting_) {
    const EngineRequest& request = waiting.state.request;
    const bool fresh = waiting.state.preemptions == 0;
    TokensOfClients& before = sums.try_emplace(request.priority, ahead).first->second;
    int64_t& tokens = before[request.client];
    if (fresh) tokens += waiting.state.prompt_tokens();
    order.heap_.emplace_back(
        Order::Key{-request.priority, fresh,
                   turns.served(request.client) + static_cast<double>(tokens), id},
        &waiting);
  }
  // A heap: mostly, only the first few are looked at.
  std::make_heap(order.heap_.begin(), order.heap_.end(), std::greater<>());
  return order;
}

WaitingRequest* RequestQueue::Order::Next() {
  if (heap_.empty()) return nullptr;
  std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
  WaitingRequest* next = heap_.back().second;
  heap_.pop_back();
  return next;
}

}  // namespace tandem::parallel
