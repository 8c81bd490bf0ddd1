#pragma once

#include "frontend/http/gateway_backend.h"
#include "frontend/service/service.h"

namespace tandem::frontend {

/// The service as the gateway sees it.
class ServiceBackend final : public GatewayBackend {
 public:
  /// `service` must outlive it.
  explicit ServiceBackend(Service& service) : service_(service) {}

  const TextModel& model() const override { return service_.model(); }
  bool ready() const override { return service_.ready(); }
  bool serves() const override { return service_.serves(); }

  void Start(uint64_t client, Request request, std::shared_ptr<AnswerEvents> events) override;
  void Cancel(uint64_t client, const std::string& id) override;
  void Gone(uint64_t client) override;
  void GetConversation(const ConversationName& name, ConversationAnswer answer) override;
  void DeleteConversation(const ConversationName& name, CommandAnswer answer) override;
  void Figures(FiguresAnswer answer) override;

 private:
  Service& service_;
};

}  // namespace tandem::frontend
