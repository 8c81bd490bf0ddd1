#include "frontend/server/server.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <type_traits>
#include <utility>

#include "core/base/counted.h"
#include "core/base/descriptor_limit.h"
#include "core/base/retry_after.h"
#include "frontend/protocol/protocol.h"
#include "frontend/server/answer_frames.h"

namespace tandem::frontend {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kTurn{20};  // so that a flood does not keep answers waiting
constexpr int64_t kConversationBytes = int64_t{1} << 20;  // of contents told in one frame
constexpr int64_t kSpareDescriptors = 16;
constexpr int64_t kLogDescriptors = 64;  // that a log's files take
constexpr int64_t kLeastClients = 2;     // and one that is told that there is no place
constexpr double kFullSeconds = 5;       // after which a client may find a place

bool IsLoopback(const std::string& endpoint) {
  return endpoint.starts_with("ipc://") || endpoint.starts_with("tcp://127.") ||
         endpoint.starts_with("tcp://[::1]") || endpoint.starts_with("tcp://localhost:");
}

/// Takes no more clients than there are file descriptors for. kFailedPrecondition if there is none.
absl::StatusOr<ConnectionShare> FitClients(int64_t other_descriptors, int64_t clients) {
  const int64_t others = OpenDescriptors() + other_descriptors;
  const int64_t left = DescriptorLimit() - others;
  if (left < kLeastClients) return CheckDescriptors(others + kLeastClients);
  const ConnectionShare wanted{.served = clients, .told = RouterOptions::kSurplusClients};
  const ConnectionShare fit = ShareDescriptors(left, wanted);
  if (fit.served < clients) {
    spdlog::warn(
        "{} at most, instead of {}: this process may have {} file descriptors (ulimit -Hn), and "
        "would need {}",
        Counted(fit.served, "client is served", "clients are served"), clients, DescriptorLimit(),
        others + wanted.served + wanted.told);
  }
  return fit;
}

}  // namespace

int64_t Server::OtherDescriptors(bool has_log) {
  return (has_log ? kLogDescriptors : 0) + kSpareDescriptors;
}

int64_t Server::LeastDescriptors(bool has_log) { return OtherDescriptors(has_log) + kLeastClients; }

absl::StatusOr<std::unique_ptr<Server>> Server::Create(ServerOptions options, Service& service) {
  TANDEM_ASSIGN_OR_RETURN(
      const ConnectionShare share,
      FitClients(OtherDescriptors(service.keeps_log()) + options.further_descriptors,
                 options.clients));
  options.clients = share.served;
  const std::string full = fmt::format(
      "{} connected, and no more are taken: come back later, or start the server with a larger "
      "--max-clients",
      Counted(options.clients, "client is", "clients are"));
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<Router> router,
                          Router::Bind({.endpoint = options.endpoint,
                                        .listener = options.listener,
                                        .frame_bytes = options.limits.frame_bytes,
                                        .clients = share.served,
                                        .surplus_clients = share.told,
                                        .client_budget_bytes = options.client_budget_bytes},
                                       ErrorFrame("", ErrorCode::kOverloaded, full, kFullSeconds)));
  if (!IsLoopback(router->endpoint())) {
    spdlog::warn(
        "listening on {}: whoever reaches this address can use the model and read the "
        "traffic; there is no encryption or login yet",
        router->endpoint());
  }
  std::unique_ptr<Server> server(new Server(std::move(options), std::move(router), service));
  server->connections_ = share.served + share.told;
  return server;
}

Server::Server(ServerOptions options, std::unique_ptr<Router> router, Service& service)
    : options_(std::move(options)), router_(std::move(router)), service_(service) {}

Server::~Server() = default;

absl::Status Server::Run() {
  service_.Begin();
  while (!service_.ended()) {
    router_->Wait(service_.wake_fd(), service_.UntilNextTimer());
    service_.TakeNews();
    TakeFromClients();
    router_->Flush();
    TellGone();
    service_.Work(/*all_sent=*/router_->waiting_bytes() == 0);
  }
  return service_.End();
}

void Server::TakeFromClients() {
  const Router::Clock::time_point end = Router::Clock::now() + kTurn;
  do {
    std::optional<Router::Incoming> incoming = router_->Receive(end);
    TellGone();
    if (!incoming) return;
    Handle(*incoming);
  } while (Router::Clock::now() < end);
}

void Server::TellGone() {
  for (const std::string& client : router_->TakeVanished()) service_.Gone(client);
}

void Server::Handle(const Router::Incoming& incoming) {
  if (incoming.oversized > 0) {
    Refuse({incoming.client, IdIn(incoming.frame, options_.limits)}, ErrorCode::kTooLarge,
           TooLarge(incoming.oversized, options_.limits));
    return;
  }
  if (!incoming.single) {
    Refuse({incoming.client, ""}, ErrorCode::kInvalidArgument,
           "the message has several frames (or none): send one frame with one JSON object");
    return;
  }
  std::variant<Request, RequestError> parsed = ParseRequest(incoming.frame, options_.limits);
  if (const auto* error = std::get_if<RequestError>(&parsed)) {
    Refuse({incoming.client, error->id}, error->code, error->message);
    return;
  }
  auto& request = std::get<Request>(parsed);
  const Sender sender{.client = incoming.client, .id = request.id};
  service_.CountUnknown(request.unknown_fields);
  if (const auto* generate = std::get_if<GenerateRequest>(&request.body)) {
    const FrameAnswer::Form form{.several = generate->samples > 1,
                                 .logprobs = generate->params.logprobs.has_value()};
    service_.Start(sender.client, std::move(request), AnswerTo(sender, form));
    return;
  }
  std::visit(
      [&](const auto& body) {
        using Body = std::decay_t<decltype(body)>;
        if constexpr (std::is_same_v<Body, PingRequest>) {
          router_->Send(sender.client, PongFrame(sender.id, service_.ready()));
        } else if constexpr (std::is_same_v<Body, StatusRequest>) {
          HandleStatus(sender);
        } else if constexpr (std::is_same_v<Body, ScaleRequest>) {
          HandleScale(sender, body);
        } else if constexpr (std::is_same_v<Body, CancelRequest>) {
          service_.Cancel(sender.client, sender.id, AnswerTo(sender));
        } else if constexpr (std::is_same_v<Body, ResumeRequest>) {
          service_.Resume(sender.client, sender.id, body, AnswerTo(sender));
        } else if constexpr (!std::is_same_v<Body, GenerateRequest>) {
          Handle(sender, body);
        }
      },
      request.body);
}

void Server::Handle(const Sender& sender, const ConversationListRequest& request) {
  service_.ListConversations(request, [this, sender](const Conversations::Page& page) {
    router_->Send(sender.client, ConversationListFrame(sender.id, page));
  });
}

void Server::Handle(const Sender& sender, const ConversationGetRequest& request) {
  service_.GetConversation(
      request, [this, sender, request](const absl::StatusOr<const Conversation*>& found) {
        if (!found.ok()) {
          SendError(sender, found.status());
          return;
        }
        router_->Send(sender.client,
                      ConversationFrame(sender.id, request.conversation, **found,
                                        static_cast<size_t>(request.from), kConversationBytes));
      });
}

void Server::Handle(const Sender& sender, const ConversationDeleteRequest& request) {
  service_.DeleteConversation(
      request, FrameIfDone(sender, ConversationDeletedFrame(sender.id, request.conversation)));
}

void Server::Handle(const Sender& sender, const ConversationForkRequest& request) {
  service_.ForkConversation(
      request,
      FrameIfDone(sender, ConversationForkedFrame(sender.id, request.conversation, request.to)));
}

void Server::HandleStatus(const Sender& sender) {
  service_.Status([this, sender](const absl::StatusOr<ServiceStatus>& status) {
    if (!status.ok()) {
      SendError(sender, status.status());
    } else {
      router_->Send(sender.client, StatusFrame(sender.id, router_->clients(), *status));
    }
  });
}

void Server::HandleScale(const Sender& sender, const ScaleRequest& request) {
  service_.Scale(request.ranks, [this, sender](const absl::StatusOr<parallel::EngineScale>& scale) {
    if (!scale.ok()) {
      SendError(sender, scale.status());
    } else {
      router_->Send(sender.client, ScaleFrame(sender.id, *scale));
    }
  });
}

std::shared_ptr<AnswerEvents> Server::AnswerTo(const Sender& sender, FrameAnswer::Form form) {
  return std::make_shared<FrameAnswer>(*router_, service_.model(), sender.client, sender.id, form);
}

Service::CommandAnswer Server::FrameIfDone(const Sender& sender, std::string frame) {
  return [this, sender, frame = std::move(frame)](const absl::Status& status) {
    if (status.ok()) {
      router_->Send(sender.client, frame);
    } else {
      SendError(sender, status);
    }
  };
}

void Server::Refuse(const Sender& sender, ErrorCode code, std::string_view message) {
  service_.CountRefused(code);
  router_->Send(sender.client, ErrorFrame(sender.id, code, message));
}

void Server::SendError(const Sender& sender, const absl::Status& status) {
  router_->Send(sender.client,
                ErrorFrame(sender.id, ErrorCodeOf(status), Message(status), RetryAfter(status)));
}

}  // namespace tandem::frontend
