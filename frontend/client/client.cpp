#include "frontend/client/client.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/base/descriptor_limit.h"
#include "core/base/errno_text.h"
#include "core/system/file_kind.h"

namespace tandem::frontend {
namespace {

using Json = nlohmann::json;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr const char* kMonitor = "inproc://monitor";
constexpr milliseconds kReconnectTime{2000};  // for a server that was restarted in between
constexpr milliseconds kSilence{300};
constexpr int kLingerMillis = 200;
constexpr int64_t kDescriptors = 16;  // that a connection takes
// A silent host is asked after this many seconds, and again, and is gone after as many more.
constexpr int kKeepAliveSeconds = 5;
constexpr int kKeepAliveProbes = 3;
constexpr int kUnacknowledgedMillis = 20'000;

absl::Status ServerError(const Json& frame) {
  const std::string code = frame.value("code", "internal");
  const std::string message = frame.value("message", "the server failed without a reason");
  if (code == "invalid_argument" || code == "too_large") return absl::InvalidArgumentError(message);
  if (code == "not_found") return absl::NotFoundError(message);
  if (code == "overloaded") return absl::ResourceExhaustedError(message);
  if (code == "unavailable") return absl::UnavailableError(message);
  if (code == "unimplemented") return absl::UnimplementedError(message);
  if (code == "deadline_exceeded") return absl::DeadlineExceededError(message);
  if (code == "cancelled") return absl::CancelledError(message);
  if (code == "damaged") return absl::DataLossError(message);
  return absl::InternalError(message);
}

/// The shortest decimal that is this float: 0.01, and not 0.009999999776, which is below a limit.
double Shortest(float value) {
  const std::string text = fmt::to_string(value);
  double number = value;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

Json ParamsJson(const GenerationParams& params) {
  const core::SamplingParams defaults;
  const core::SamplingParams& sampling = params.sampling;
  Json json = {{"temperature", Shortest(sampling.temperature)}};
  if (params.max_tokens) json["max_tokens"] = *params.max_tokens;
  if (params.seed) json["seed"] = *params.seed;
  if (!params.stop.empty()) json["stop"] = params.stop;
  if (!params.stop_tokens.empty()) json["stop_token_ids"] = params.stop_tokens;
  if (params.ignore_eos) json["ignore_eos"] = true;
  if (params.min_tokens != 0) json["min_tokens"] = params.min_tokens;
  if (sampling.top_k != defaults.top_k) json["top_k"] = sampling.top_k;
  if (sampling.top_p != defaults.top_p) json["top_p"] = Shortest(sampling.top_p);
  if (sampling.min_p != defaults.min_p) json["min_p"] = Shortest(sampling.min_p);
  if (sampling.repetition_penalty != defaults.repetition_penalty) {
    json["repetition_penalty"] = Shortest(sampling.repetition_penalty);
  }
  if (sampling.presence_penalty != defaults.presence_penalty) {
    json["presence_penalty"] = Shortest(sampling.presence_penalty);
  }
  if (sampling.frequency_penalty != defaults.frequency_penalty) {
    json["frequency_penalty"] = Shortest(sampling.frequency_penalty);
  }
  if (params.logprobs) json["logprobs"] = *params.logprobs;
  if (params.priority != 0) json["priority"] = params.priority;
  if (!params.reuse) json["cache"] = false;
  if (!params.speculate) json["speculate"] = false;
  for (const auto& [token, bias] : sampling.logit_bias) {
    json["logit_bias"].push_back({token, bias});
  }
  return json;
}

Answer AnswerFromDone(const Json& frame) {
  Answer answer;
  const std::string reason = frame.value("finish_reason", "stop");
  answer.reason = reason == "length"      ? parallel::FinishReason::kLength
                  : reason == "cancelled" ? parallel::FinishReason::kCancelled
                                          : parallel::FinishReason::kStop;
  answer.text = frame.value("text", "");
  if (frame.contains("seed")) answer.seed = frame["seed"].get<uint64_t>();
  const Json usage = frame.value("usage", Json::object());
  answer.usage.prompt_tokens = usage.value("prompt_tokens", 0);
  answer.usage.completion_tokens = usage.value("completion_tokens", 0);
  answer.usage.reused_tokens = usage.value("reused_tokens", 0);
  answer.usage.computed_tokens = usage.value("computed_tokens", 0);
  answer.usage.preemptions = usage.value("preemptions", 0);
  answer.usage.drafted_tokens = usage.value("drafted_tokens", 0);
  answer.usage.accepted_tokens = usage.value("accepted_tokens", 0);
  const Json from = usage.value("reused_from", Json::object());
  answer.usage.reused_from = {.device = from.value("device", uint64_t{0}),
                              .host = from.value("host", uint64_t{0}),
                              .disk = from.value("disk", uint64_t{0}),
                              .remote = from.value("remote", uint64_t{0})};
  const Json timings = frame.value("timings", Json::object());
  answer.usage.queue_seconds = timings.value("queue_seconds", 0.0);
  answer.usage.prefill_seconds = timings.value("prefill_seconds", 0.0);
  answer.usage.decode_seconds = timings.value("decode_seconds", 0.0);
  return answer;
}

}  // namespace

namespace {

/// That a port can be one, and that a socket of this host is one and may be used: ZeroMQ tries in
/// silence, for ever. One that is not there may come.
absl::Status CheckEndpoint(const std::string& endpoint) {
  constexpr std::string_view kLocal = "ipc://";
  constexpr int kHighestPort = 65535;
  const size_t digits = endpoint.find_last_not_of("0123456789") + 1;
  if (endpoint.starts_with("tcp://") && endpoint[digits - 1] == ':' && digits < endpoint.size()) {
    int port = 0;
    const auto read = std::from_chars(endpoint.data() + digits, &endpoint.back() + 1, port);
    if (read.ec != std::errc() || port < 1 || port > kHighestPort) {
      return InvalidArgument("cannot connect to \"{}\": '{}' is no port from 1 to {}", endpoint,
                             endpoint.substr(digits), kHighestPort);
    }
  }
  if (!endpoint.starts_with(kLocal)) return absl::OkStatus();
  const std::string path = endpoint.substr(kLocal.size());
  struct stat file {};
  const bool named = path.starts_with('@');  // a name that is no file
  if (!named && stat(path.c_str(), &file) == 0 && !S_ISSOCK(file.st_mode)) {
    return InvalidArgument(
        "cannot connect to \"{}\": {} is {}, and no socket; name the one on which a server listens",
        endpoint, path, FileKindText(file.st_mode));
  }
  if (faccessat(AT_FDCWD, path.c_str(), W_OK, AT_EACCESS) == 0 || errno != EACCES) {
    return absl::OkStatus();
  }
  return absl::PermissionDeniedError(
      fmt::format("cannot connect to \"{}\": {}: the socket, or its folder, is another user's",
                  endpoint, ErrnoText(EACCES)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(const ClientOptions& options) {
  // ZeroMQ ends the process where it gets none.
  TANDEM_RETURN_IF_ERROR(CheckDescriptors(OpenDescriptors() + kDescriptors));
  TANDEM_RETURN_IF_ERROR(CheckEndpoint(options.endpoint));
  std::unique_ptr<Client> client;
  try {
    auto context = std::make_unique<zmq::context_t>(/*io_threads=*/1);
    zmq::socket_t socket(*context, zmq::socket_type::dealer);
    socket.set(zmq::sockopt::linger, kLingerMillis);
    // No heartbeats of ZMTP's: while nobody reads here, the mark stops input, and a heartbeat on a
    // connection that fails meanwhile aborts the process (libzmq 4.3.4; router.h tells more). A
    // dead host shows by these, a dead server by the protocol's pings in Receive.
    socket.set(zmq::sockopt::tcp_keepalive, 1);
    socket.set(zmq::sockopt::tcp_keepalive_idle, kKeepAliveSeconds);
    socket.set(zmq::sockopt::tcp_keepalive_intvl, kKeepAliveSeconds);
    socket.set(zmq::sockopt::tcp_keepalive_cnt, kKeepAliveProbes);
    socket.set(zmq::sockopt::tcp_maxrt, kUnacknowledgedMillis);
    socket.set(zmq::sockopt::ipv6, options.endpoint.find('[') != std::string::npos);
    if (zmq_socket_monitor(socket.handle(), kMonitor,
                           ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED) != 0) {
      return Internal("cannot watch the connection: {}", zmq_strerror(zmq_errno()));
    }
    zmq::socket_t monitor(*context, zmq::socket_type::pair);
    monitor.set(zmq::sockopt::linger, 0);
    monitor.connect(kMonitor);
    socket.connect(options.endpoint);
    client.reset(new Client(options, std::move(context), std::move(socket), std::move(monitor),
                            eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)));
  } catch (const zmq::error_t& error) {
    return InvalidArgument(
        "cannot connect to \"{}\" ({}): expected an endpoint like tcp://127.0.0.1:5555 or "
        "ipc:///run/tandem.sock",
        options.endpoint, error.what());
  }
  // One that is not ready is there all the same: it tells its status, and its requests wait or
  // fail.
  TANDEM_RETURN_IF_ERROR(client->Ping().status());
  return client;
}

Client::Client(const ClientOptions& options, std::unique_ptr<zmq::context_t> context,
               zmq::socket_t socket, zmq::socket_t monitor, int interrupt_fd)
    : options_(options),
      context_(std::move(context)),
      socket_(std::move(socket)),
      monitor_(std::move(monitor)),
      interrupt_fd_(interrupt_fd) {}

Client::~Client() {
  zmq_socket_monitor(socket_.handle(), nullptr, 0);
  close(interrupt_fd_);
}

void Client::Interrupt() {
  const uint64_t one = 1;
  (void)!write(interrupt_fd_, &one, sizeof(one));
}

bool Client::TakeInterrupt() {
  uint64_t count = 0;
  return read(interrupt_fd_, &count, sizeof(count)) == sizeof(count);
}

bool Client::TakeDisconnect() {
  bool any = false;
  zmq::message_t part;
  while (zmq_msg_recv(part.handle(), monitor_.handle(), ZMQ_DONTWAIT) >= 0) {
    uint16_t event = 0;
    if (part.more() && part.size() >= sizeof(event)) {
      std::memcpy(&event, part.data(), sizeof(event));
      disconnected_ = event == ZMQ_EVENT_DISCONNECTED;
      any = any || disconnected_;
    }
    part.rebuild();
  }
  return any;
}

std::string Client::NewId() { return fmt::format("r{}", next_id_++); }

absl::Status Client::Send(const Json& frame) {
  const std::string text = frame.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (zmq_send(socket_.handle(), text.data(), text.size(), ZMQ_DONTWAIT) < 0) {
    return Unavailable("cannot send to the server at {}: {}", options_.endpoint,
                       zmq_strerror(zmq_errno()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<Json>> Client::Receive(const std::string& id, bool interruptible) {
  Clock::time_point heard = Clock::now();
  Clock::time_point asked = heard;
  while (true) {
    zmq::message_t message;
    if (zmq_msg_recv(message.handle(), socket_.handle(), ZMQ_DONTWAIT) >= 0) {
      heard = Clock::now();
      heard_ = true;
      Json frame = Json::parse(message.to_string_view(), nullptr, /*allow_exceptions=*/false);
      // Answers to earlier requests and to signs of life are not for this caller.
      if (frame.is_object() && frame.contains("type") && frame["type"].is_string() &&
          frame.contains("id") && (frame["id"] == id || frame["id"].is_null())) {
        return frame;
      }
      continue;
    }
    if (interruptible && TakeInterrupt()) return std::nullopt;
    const Clock::time_point now = Clock::now();
    if (TakeDisconnect() || (disconnected_ && now - heard >= kReconnectTime)) {
      return Unavailable(
          "the connection to the server at {} was lost: it has ended, or the network "
          "is down",
          options_.endpoint);
    }
    if (now - heard >= options_.timeout) {
      return Unavailable(
          "no answer from {} within {:.1f} s: is a server running there? Start one with tandem "
          "serve",
          options_.endpoint, std::chrono::duration<double>(options_.timeout).count());
    }
    if (now - heard >= kSilence && !std::exchange(heard_, true) && options_.on_silence) {
      options_.on_silence();
    }
    if (now - asked >= options_.timeout / 3) {
      asked = now;
      TANDEM_RETURN_IF_ERROR(Send({{"v", 1}, {"type", "ping"}, {"id", "alive"}}));
    }
    std::array<zmq_pollitem_t, 3> items{{{socket_.handle(), 0, ZMQ_POLLIN, 0},
                                         {monitor_.handle(), 0, ZMQ_POLLIN, 0},
                                         {nullptr, interrupt_fd_, ZMQ_POLLIN, 0}}};
    const int watched = interruptible ? 3 : 2;
    const milliseconds wait = std::clamp(options_.timeout / 10, milliseconds(1),
                                         heard_ ? options_.timeout : kSilence / 3);
    (void)zmq_poll(items.data(), watched, static_cast<long>(wait.count()));
  }
}

absl::StatusOr<Json> Client::Ask(Json request, std::string_view answer_type) {
  const std::string id = NewId();
  request["v"] = 1;
  request["id"] = id;
  TANDEM_RETURN_IF_ERROR(Send(request));
  while (true) {
    TANDEM_ASSIGN_OR_RETURN(std::optional<Json> frame, Receive(id, /*interruptible=*/false));
    if ((*frame)["type"] == "error") return ServerError(*frame);
    if ((*frame)["type"] == answer_type) return *std::move(frame);
  }
}

absl::StatusOr<bool> Client::Ping() {
  TANDEM_ASSIGN_OR_RETURN(const Json pong, Ask({{"type", "ping"}}, "pong"));
  return pong.contains("ready") && pong["ready"] == true;
}

absl::StatusOr<Json> Client::ConversationCommand(std::string_view command, const Json& fields) {
  const std::string type = fmt::format("conversation.{}", command);
  Json request = fields;
  request["type"] = type;
  return Ask(std::move(request), type);
}

absl::StatusOr<Json> Client::Scale(int ranks) {
  return Ask({{"type", "scale"}, {"ranks", ranks}}, "scale");
}

absl::StatusOr<Json> Client::ServerStatus() { return Ask({{"type", "status"}}, "status"); }

absl::StatusOr<Answer> Client::Chat(const std::vector<ChatMessage>& messages,
                                    const GenerationParams& params, const OnText& on_text,
                                    const ChatPlace& place) {
  Json request = {{"type", "chat"}, {"messages", Json::array()}};
  if (!place.conversation.empty()) request["conversation"] = place.conversation;
  if (place.accept_damage) request["accept_damage"] = true;
  if (!place.tenant.empty()) request["tenant"] = place.tenant;
  if (!place.context_policy.empty()) request["context_policy"] = place.context_policy;
  for (const ChatMessage& message : messages) {
    request["messages"].push_back({{"role", message.role}, {"content", message.content}});
  }
  return WaitForAnswer(std::move(request), params, on_text);
}

absl::StatusOr<Answer> Client::Complete(
    const std::variant<std::string, std::vector<int32_t>>& prompt, const GenerationParams& params,
    const OnText& on_text) {
  Json request = {{"type", "complete"}};
  if (const auto* text = std::get_if<std::string>(&prompt)) {
    request["prompt"] = *text;
  } else {
    request["tokens"] = std::get<1>(prompt);
  }
  return WaitForAnswer(std::move(request), params, on_text);
}

absl::StatusOr<Answer> Client::WaitForAnswer(Json request, const GenerationParams& params,
                                             const OnText& on_text) {
  const std::string id = NewId();
  request["v"] = 1;
  request["id"] = id;
  request.update(ParamsJson(params));
  TakeInterrupt();
  TakeDisconnect();
  TANDEM_RETURN_IF_ERROR(Send(request));
  while (true) {
    TANDEM_ASSIGN_OR_RETURN(std::optional<Json> frame, Receive(id, /*interruptible=*/true));
    if (!frame) {
      TANDEM_RETURN_IF_ERROR(Send({{"v", 1}, {"type", "cancel"}, {"id", id}}));
      continue;
    }
    // A server of another make may send fields of unexpected types: those are its error, not ours.
    try {
      const Json& type = (*frame)["type"];
      if (type == "error") return ServerError(*frame);
      if (type == "notice" && options_.on_notice) {
        options_.on_notice(frame->at("message").get<std::string>());
      }
      if (type == "delta" && on_text) on_text(frame->at("text").get<std::string>());
      if (type == "done") return AnswerFromDone(*frame);
    } catch (const Json::exception& error) {
      return Internal("the server at {} sent a frame that is not of protocol version 1: {}",
                      options_.endpoint, error.what());
    }
  }
}

}  // namespace tandem::frontend
