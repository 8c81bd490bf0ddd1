#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/base/status.h"
#include "frontend/chat/text_model.h"
#include "frontend/conversations/conversations.h"
#include "frontend/protocol/request.h"
#include "frontend/service/answer_events.h"
#include "parallel/engine/engine.h"

namespace tandem::frontend {

/// What the gateway needs of the service. Thread safety: all functions may be called from any
/// thread, and do not wait; what they answer comes from a thread of the service's.
class GatewayBackend {
 public:
  /// What is handed over is valid during the call.
  using ConversationAnswer =
      std::function<void(const absl::StatusOr<const Conversation*>& conversation)>;
  using CommandAnswer = std::function<void(const absl::Status& status)>;
  using FiguresAnswer = std::function<void(const absl::StatusOr<parallel::EngineStatus>& figures)>;

  virtual ~GatewayBackend() = default;

  virtual const TextModel& model() const = 0;
  /// Whether requests are taken, and the engine is in health. False also while the service ends.
  virtual bool ready() const = 0;
  /// Whether requests are answered, if only with a reason why they are refused. While ranks are
  /// started again they wait.
  virtual bool serves() const = 0;

  /// Begins an answer. `client`: a connection of the gateway; `request.id` is new for it.
  virtual void Start(uint64_t client, Request request, std::shared_ptr<AnswerEvents> events) = 0;
  /// An answer ends with what there is of it.
  virtual void Cancel(uint64_t client, const std::string& id) = 0;
  /// A connection is gone: its answers end within a step, and their events hear nothing more.
  virtual void Gone(uint64_t client) = 0;

  virtual void GetConversation(const ConversationName& name, ConversationAnswer answer) = 0;
  virtual void DeleteConversation(const ConversationName& name, CommandAnswer answer) = 0;
  /// Fails where the engine is dead.
  virtual void Figures(FiguresAnswer answer) = 0;
};

}  // namespace tandem::frontend
