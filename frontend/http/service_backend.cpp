#include "frontend/http/service_backend.h"

#include <utility>

namespace tandem::frontend {
namespace {

std::string HttpClientName(uint64_t client) { return ClientName("http", client); }

}  // namespace

void ServiceBackend::Start(uint64_t client, Request request, std::shared_ptr<AnswerEvents> events) {
  service_.CountUnknown(request.unknown_fields);
  service_.Start(HttpClientName(client), std::move(request), std::move(events));
}

void ServiceBackend::Cancel(uint64_t client, const std::string& id) {
  service_.Cancel(HttpClientName(client), id);
}

void ServiceBackend::Gone(uint64_t client) { service_.Gone(HttpClientName(client)); }

void ServiceBackend::GetConversation(const ConversationName& name, ConversationAnswer answer) {
  service_.GetConversation({.tenant = name.tenant, .conversation = name.id, .from = 0},
                           std::move(answer));
}

void ServiceBackend::DeleteConversation(const ConversationName& name, CommandAnswer answer) {
  service_.DeleteConversation({.tenant = name.tenant, .conversation = name.id}, std::move(answer));
}

void ServiceBackend::Figures(FiguresAnswer answer) {
  service_.Status([answer = std::move(answer)](const absl::StatusOr<ServiceStatus>& status) {
    if (!status.ok()) return answer(status.status());
    answer(status->engine);
  });
}

}  // namespace tandem::frontend
