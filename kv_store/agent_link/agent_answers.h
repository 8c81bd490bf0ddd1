#pragma once

#include <utility>
#include <variant>

#include "core/base/status.h"
#include "kv_store/agent_link/agent_codec.h"

/// What an agent answered, as whoever asked takes it.
namespace tandem::kv_store {

/// The answer of the kind that was asked for, or why there is none.
template <typename Kind>
absl::StatusOr<Kind> Expect(absl::StatusOr<AgentMessage> answer) {
  TANDEM_RETURN_IF_ERROR(answer.status());
  if (auto* wanted = std::get_if<Kind>(&*answer)) return std::move(*wanted);
  if (const auto* status = std::get_if<AgentStatus>(&*answer); status && !status->status.ok()) {
    return status->status;
  }
  return Internal("KV agent: it answers what was not asked");
}

/// Of what is answered by a status alone.
inline absl::Status ExpectStatus(absl::StatusOr<AgentMessage> answer) {
  TANDEM_ASSIGN_OR_RETURN(const AgentStatus status, Expect<AgentStatus>(std::move(answer)));
  return status.status;
}

}  // namespace tandem::kv_store
