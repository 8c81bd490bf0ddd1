#include "kv_store/agent/tier_requests.h"

#include <algorithm>
#include <span>
#include <utility>

namespace tandem::kv_store {
namespace {

// Keys looked up at once: few, as long as nobody knows how large the records are.
constexpr size_t kAtFirst = 8;
constexpr size_t kAtMost = 256;

AgentFound Find(Tier& tier, const std::vector<RecordKey>& keys, int64_t answer_bytes) {
  AgentFound answer;
  int64_t bytes = 0;
  int64_t count = 0;  // found
  size_t at_once = kAtFirst;
  for (size_t first = 0; first < keys.size() && bytes < answer_bytes;) {
    const auto part = std::span(keys).subspan(first, std::min(at_once, keys.size() - first));
    first += part.size();
    for (std::optional<FoundRecord>& found : tier.Get(part)) {
      if (found) {
        bytes += static_cast<int64_t>(found->bytes.size());
        ++count;
      }
      answer.records.push_back(std::move(found));
    }
    at_once = std::min(2 * at_once, kAtMost);
    if (count == 0) continue;
    const int64_t each = std::max(int64_t{1}, bytes / count);
    const auto room = static_cast<size_t>(std::max(int64_t{1}, (answer_bytes - bytes) / each));
    at_once = std::min(at_once, room);
  }
  return answer;
}

}  // namespace

std::optional<AgentMessage> DoWithTier(Tier& tier, const AgentMessage& request,
                                       int64_t answer_bytes) {
  if (const auto* put = std::get_if<AgentPut>(&request)) {
    return AgentStatus{.status = tier.Put(put->records)};
  }
  if (const auto* get = std::get_if<AgentGet>(&request)) return Find(tier, get->keys, answer_bytes);
  if (const auto* exists = std::get_if<AgentExists>(&request)) {
    return AgentExisting{.where = tier.Where(exists->keys)};
  }
  if (const auto* use = std::get_if<AgentUse>(&request)) {
    tier.Use(use->keys);
    return AgentStatus();
  }
  if (std::holds_alternative<AgentFlush>(request)) return AgentStatus{.status = tier.Flush()};
  if (const auto* erase = std::get_if<AgentErase>(&request)) {
    return AgentStatus{.status = tier.Erase(erase->blocks)};
  }
  return std::nullopt;
}

AgentStatus NoRequest(const AgentMessage& message) {
  return {.status = InvalidArgument("KV agent: kind {} of message is none that it does for you",
                                    message.index())};
}

AgentParts AnswerFrame(const AgentParts& request,
                       const std::function<AgentMessage(const AgentMessage&)>& answer) {
  const absl::StatusOr<AgentFrame> frame = DecodeAgentFrame(request);
  if (!frame.ok()) {
    return EncodeAgentFrame(
        {.call = CallOfFrame(request), .message = AgentStatus{.status = frame.status()}});
  }
  return EncodeAgentFrame({.call = frame->call, .message = answer(frame->message)});
}

}  // namespace tandem::kv_store
