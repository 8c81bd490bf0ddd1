#include "kv_store/agent_link/agent_tier.h"

#include <algorithm>
#include <iterator>
#include <limits>

#include "kv_store/base/zmq_tools.h"

namespace tandem::kv_store {
namespace {

// Keys in one request. Their answer may take several.
constexpr size_t kKeysInOne = 4096;

int64_t BytesOf(const TierRecord& record) { return static_cast<int64_t>(record.bytes.size()); }

}  // namespace

struct AgentTier::Connection {
  Connection(zmq::context_t& context, const std::string& name)
      : socket(context, zmq::socket_type::dealer), monitor(context, socket, name) {}

  zmq::socket_t socket;
  DisconnectMonitor monitor;
};

AgentTier::AgentTier(AgentDirectory directory, const AgentTierOptions& options)
    : options_(options), directory_(std::move(directory)) {
  lease_ = std::thread([this] { RunLease(); });
}

AgentTier::~AgentTier() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    changed_.notify_all();
  }
  lease_.join();
}

void AgentTier::RunLease() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    lock.unlock();
    static_cast<void>(Renew());
    lock.lock();
    changed_.wait_for(lock, options_.renew, [this] { return stop_; });
  }
}

absl::StatusOr<std::unique_ptr<AgentTier::Connection>> AgentTier::Connect() {
  TANDEM_RETURN_IF_ERROR(directory_.Probe());
  try {
    auto connection = std::make_unique<Connection>(
        context_, "agent-" + std::to_string(next_connection_.fetch_add(1)));
    SocketLimits limits;
    limits.largest_message = 2 * static_cast<int64_t>(kLargestAgentFrame);
    SetSafeOptions(connection->socket, limits);
    connection->socket.connect(directory_.address());
    return connection;
  } catch (const zmq::error_t& error) {
    return Unavailable("KV agent in {}: cannot be reached: {}", directory_.path(), error.what());
  }
}

absl::StatusOr<AgentMessage> AgentTier::Exchange(Connection& connection, const AgentFrame& request,
                                                 Clock::time_point deadline) {
  const auto gone = [this] {
    return Unavailable("KV agent in {}: it went away", directory_.path());
  };
  try {
    if (connection.monitor.TakeDisconnected()) return gone();
    if (TrySend(connection.socket, "", EncodeAgentFrame(request)) != SendOutcome::kSent) {
      return gone();
    }
    for (;;) {
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
      if (left.count() <= 0) {
        return absl::DeadlineExceededError(
            fmt::format("KV agent in {}: no answer in time", directory_.path()));
      }
      zmq::pollitem_t items[] = {{connection.socket.handle(), 0, ZMQ_POLLIN, 0},
                                 {connection.monitor.socket().handle(), 0, ZMQ_POLLIN, 0}};
      if (!PollOnce(items, left)) continue;
      const AgentParts parts =
          Readable(items[0]) ? TakeParts(TryReceive(connection.socket)) : AgentParts();
      if (!parts.empty()) {
        absl::StatusOr<AgentFrame> answer = DecodeAgentFrame(parts);
        if (!answer.ok()) {
          return InvalidArgument(
              "KV agent in {}: {}; if it is one of another version of this program, end it (pkill "
              "-f 'tandem agent {}') or wait until it ends (--agent-ttl)",
              directory_.path(), Message(answer.status()), directory_.path());
        }
        if (answer->call == request.call) return std::move(answer->message);
        continue;
      }
      if (Readable(items[1]) && connection.monitor.TakeDisconnected()) return gone();
    }
  } catch (const zmq::error_t& error) {
    return Unavailable("KV agent in {}: {}", directory_.path(), error.what());
  }
}

absl::StatusOr<AgentMessage> AgentTier::Call(AgentMessage request, Clock::time_point deadline) {
  const AgentFrame frame{.call = next_call_.fetch_add(1), .message = std::move(request)};
  std::unique_ptr<Connection> connection;
  {
    const std::lock_guard lock(mutex_);
    if (down_until_ && Clock::now() < *down_until_) {
      return Unavailable("KV agent in {}: it did not answer just now", directory_.path());
    }
    if (!idle_.empty()) {
      connection = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  absl::StatusOr<AgentMessage> answer = Unavailable("no connection yet");
  if (connection != nullptr) answer = Exchange(*connection, frame, deadline);
  // A connection that lay idle may be one to an agent that has gone and come back since.
  if (absl::IsUnavailable(answer.status())) {
    absl::StatusOr<std::unique_ptr<Connection>> fresh = Connect();
    if (fresh.ok()) {
      connection = std::move(*fresh);
      answer = Exchange(*connection, frame, deadline);
    } else {
      answer = fresh.status();
    }
  }
  const std::lock_guard lock(mutex_);
  if (answer.ok()) {
    idle_.push_back(std::move(connection));
    down_until_.reset();
  } else {
    idle_.clear();
    down_until_ = Clock::now() + options_.down;
  }
  return answer;
}

absl::Status AgentTier::CallForStatus(AgentMessage request, Clock::time_point deadline) {
  TANDEM_ASSIGN_OR_RETURN(const AgentMessage answer, Call(std::move(request), deadline));
  const auto* status = std::get_if<AgentStatus>(&answer);
  return status != nullptr
             ? status->status
             : Internal("KV agent in {}: it answers what was not asked", directory_.path());
}

absl::Status AgentTier::Put(std::span<const TierRecord> records) {
  const auto deadline = Clock::now() + options_.deadline;
  absl::Status first;
  for (size_t next = 0; next < records.size();) {
    AgentPut put;
    int64_t bytes = 0;
    while (next < records.size() && put.records.size() < kKeysInOne &&
           (put.records.empty() || bytes + BytesOf(records[next]) <= options_.batch_bytes)) {
      bytes += BytesOf(records[next]);
      put.records.push_back(records[next++]);
    }
    absl::Status status = CallForStatus(std::move(put), deadline);
    const bool next_may_fit = status.ok() || absl::IsResourceExhausted(status);
    if (first.ok()) first = std::move(status);
    if (!next_may_fit) break;
  }
  return first;
}

std::vector<std::optional<FoundRecord>> AgentTier::Get(std::span<const RecordKey> keys) {
  const auto deadline = Clock::now() + options_.deadline;
  std::vector<std::optional<FoundRecord>> found;
  found.reserve(keys.size());
  while (found.size() < keys.size()) {
    const auto rest = keys.subspan(found.size());
    const auto asked = rest.first(std::min(rest.size(), kKeysInOne));
    absl::StatusOr<AgentMessage> answer =
        Call(AgentGet{.keys = {asked.begin(), asked.end()}}, deadline);
    auto* part = answer.ok() ? std::get_if<AgentFound>(&*answer) : nullptr;
    if (part == nullptr || part->records.empty() || part->records.size() > asked.size()) break;
    std::move(part->records.begin(), part->records.end(), std::back_inserter(found));
  }
  found.resize(keys.size());
  return found;
}

std::vector<std::optional<TierKind>> AgentTier::Where(std::span<const RecordKey> keys) {
  const auto deadline = Clock::now() + options_.deadline;
  std::vector<std::optional<TierKind>> where;
  while (where.size() < keys.size()) {
    const auto rest = keys.subspan(where.size());
    const auto asked = rest.first(std::min(rest.size(), kKeysInOne));
    const absl::StatusOr<AgentMessage> answer =
        Call(AgentExists{.keys = {asked.begin(), asked.end()}}, deadline);
    const auto* part = answer.ok() ? std::get_if<AgentExisting>(&*answer) : nullptr;
    if (part == nullptr || part->where.size() != asked.size()) break;
    where.insert(where.end(), part->where.begin(), part->where.end());
  }
  where.resize(keys.size());
  return where;
}

void AgentTier::Use(std::span<const RecordKey> keys) {
  const auto deadline = Clock::now() + options_.deadline;
  for (size_t first = 0; first < keys.size(); first += kKeysInOne) {
    const auto part = keys.subspan(first, std::min(kKeysInOne, keys.size() - first));
    if (!CallForStatus(AgentUse{.keys = {part.begin(), part.end()}}, deadline).ok()) return;
  }
}

absl::Status AgentTier::Flush() {
  return CallForStatus(AgentFlush(), Clock::now() + options_.flush_deadline);
}

absl::Status AgentTier::Erase(std::span<const BlockHash> blocks) {
  const auto deadline = Clock::now() + options_.flush_deadline;
  for (size_t first = 0; first < blocks.size(); first += kKeysInOne) {
    const auto part = blocks.subspan(first, std::min(kKeysInOne, blocks.size() - first));
    TANDEM_RETURN_IF_ERROR(
        CallForStatus(AgentErase{.blocks = {part.begin(), part.end()}}, deadline));
  }
  return absl::OkStatus();
}

absl::Status AgentTier::Drop(std::span<const BlockHash> blocks) {
  const auto deadline = Clock::now() + options_.flush_deadline;
  for (size_t first = 0; first < blocks.size(); first += kKeysInOne) {
    const auto part = blocks.subspan(first, std::min(kKeysInOne, blocks.size() - first));
    TANDEM_RETURN_IF_ERROR(
        CallForStatus(AgentDrop{.blocks = {part.begin(), part.end()}}, deadline));
  }
  return absl::OkStatus();
}

std::optional<AgentStats> AgentTier::AskStats() {
  absl::StatusOr<AgentMessage> answer = Call(AgentStatsQuery(), Clock::now() + options_.deadline);
  auto* stats = answer.ok() ? std::get_if<AgentStats>(&*answer) : nullptr;
  if (stats == nullptr) return std::nullopt;
  return std::move(*stats);
}

TierStats AgentTier::Stats() { return AskStats().value_or(AgentStats()).all; }

std::vector<std::pair<TierKind, TierStats>> AgentTier::StatsByTier() {
  return AskStats().value_or(AgentStats()).by_tier;
}

absl::StatusOr<std::vector<ListedBlock>> AgentTier::List(const std::optional<BlockHash>& after,
                                                         size_t most) {
  constexpr size_t kMost = std::numeric_limits<uint32_t>::max();
  const AgentListQuery query{.after = after, .most = static_cast<uint32_t>(std::min(most, kMost))};
  TANDEM_ASSIGN_OR_RETURN(AgentMessage answer, Call(query, Clock::now() + options_.deadline));
  if (auto* listing = std::get_if<AgentListing>(&answer)) return std::move(listing->blocks);
  if (const auto* status = std::get_if<AgentStatus>(&answer);
      status != nullptr && !status->status.ok()) {
    return status->status;
  }
  return Internal("KV agent in {}: it answers what was not asked", directory_.path());
}

std::vector<PeekedRecord> AgentTier::Peek(TierKind tier, std::span<const RecordKey> keys) {
  std::vector<PeekedRecord> peeked;
  peeked.reserve(keys.size());
  while (peeked.size() < keys.size()) {
    const auto rest = keys.subspan(peeked.size());
    const auto asked = rest.first(std::min(rest.size(), kKeysInOne));
    absl::StatusOr<AgentMessage> answer =
        Call(AgentPeekQuery{.tier = tier, .keys = {asked.begin(), asked.end()}},
             Clock::now() + options_.deadline);
    auto* part = answer.ok() ? std::get_if<AgentPeeked>(&*answer) : nullptr;
    if (part == nullptr || part->records.empty() || part->records.size() > asked.size()) break;
    std::move(part->records.begin(), part->records.end(), std::back_inserter(peeked));
  }
  peeked.resize(keys.size());
  return peeked;
}

absl::Status AgentTier::Renew() {
  return CallForStatus(AgentRenew(), Clock::now() + options_.deadline);
}

absl::StatusOr<AgentPeer> AgentTier::Listen(const std::string& address) {
  TANDEM_ASSIGN_OR_RETURN(const AgentMessage answer, Call(AgentListen{.address = address},
                                                          Clock::now() + options_.flush_deadline));
  if (const auto* identity = std::get_if<AgentIdentity>(&answer)) return identity->self;
  if (const auto* status = std::get_if<AgentStatus>(&answer); status && !status->status.ok()) {
    return status->status;
  }
  return Internal("KV agent in {}: it answers what was not asked", directory_.path());
}

absl::Status AgentTier::Meet(AgentMeet meeting) {
  return CallForStatus(std::move(meeting), Clock::now() + options_.flush_deadline);
}

absl::Status AgentTier::StopAgent() {
  return CallForStatus(AgentStop(), Clock::now() + options_.deadline);
}

}  // namespace tandem::kv_store
