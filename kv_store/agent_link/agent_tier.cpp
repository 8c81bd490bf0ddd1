#include "kv_store/agent_link/agent_tier.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

#include "kv_store/agent_link/agent_answers.h"
#include "kv_store/base/files.h"
#include "kv_store/base/parts.h"
#include "kv_store/base/zmq_tools.h"

namespace tandem::kv_store {
namespace {

// Keys in one request. Their answer may take several.
constexpr size_t kKeysInOne = 4096;

int64_t BytesOf(const TierRecord& record) { return static_cast<int64_t>(record.bytes.size()); }

/// [keys] What is answered to `ask`, which is asked of a part of the keys at a time and may answer
/// for the first of them only. As Item() says, from where nothing is answered.
template <typename Item, typename Ask>
std::vector<Item> AnswersTo(std::span<const RecordKey> keys, const Ask& ask) {
  std::vector<Item> all;
  all.reserve(keys.size());
  while (all.size() < keys.size()) {
    const auto asked = PartsOf(keys.subspan(all.size()), kKeysInOne).front();
    absl::StatusOr<std::vector<Item>> answer = ask({asked.begin(), asked.end()});
    if (!answer.ok() || answer->empty() || answer->size() > asked.size()) break;
    std::move(answer->begin(), answer->end(), std::back_inserter(all));
  }
  all.resize(keys.size());
  return all;
}

}  // namespace

AgentTier::AgentTier(AgentDirectory directory, const AgentTierOptions& options)
    : options_(options),
      path_(directory.path()),
      directory_(std::make_shared<AgentDirectory>(std::move(directory))) {
  lease_ = std::thread([this] { RunLease(); });
}

AgentTier::~AgentTier() {
  {
    const MutexLock lock(mutex_);
    stop_ = true;
    changed_.NotifyAll();
  }
  lease_.join();
}

void AgentTier::RunLease() {
  MutexLock lock(mutex_);
  while (!stop_) {
    lock.Unlock();
    static_cast<void>(Renew());
    lock.Lock();
    if (!stop_) changed_.WaitFor(mutex_, options_.renew);
  }
}

std::shared_ptr<const AgentDirectory> AgentTier::Directory() {
  const MutexLock lock(mutex_);
  if (!directory_->IsInPlace() && kv_store::Exists(path_)) {
    auto now = AgentDirectory::Open(path_);
    if (now.ok()) directory_ = std::make_shared<AgentDirectory>(*std::move(now));
  }
  return directory_;
}

bool AgentTier::DirectoryIsRemoved() {
  const MutexLock lock(mutex_);
  return directory_->IsRemoved();
}

absl::StatusOr<std::unique_ptr<AgentConnection>> AgentTier::Connect() {
  std::shared_ptr<const AgentDirectory> directory = Directory();
  TANDEM_RETURN_IF_ERROR(directory->Probe());
  try {
    auto connection =
        std::make_unique<AgentConnection>(context_, DisconnectMonitor::Watch::kConnections);
    connection->directory = std::move(directory);
    connection->socket.connect(connection->directory->address());
    return connection;
  } catch (const zmq::error_t& error) {
    return Unavailable("KV agent in {}: cannot be reached: {}", path_, error.what());
  }
}

absl::StatusOr<AgentMessage> AgentTier::Exchange(AgentConnection& connection,
                                                 const AgentFrame& request,
                                                 Clock::time_point deadline) {
  const auto gone = [this] { return Unavailable("KV agent in {}: it went away", path_); };
  try {
    if (connection.monitor.TakeDisconnected()) return gone();
    if (TrySend(connection.socket, "", EncodeAgentFrame(request)) != SendOutcome::kSent) {
      return gone();
    }
    for (;;) {
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
      if (left.count() <= 0) {
        return absl::DeadlineExceededError(fmt::format("KV agent in {}: no answer in time", path_));
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
              path_, Message(answer.status()), path_);
        }
        if (answer->call == request.call) return std::move(answer->message);
        continue;
      }
      if (Readable(items[1]) && connection.monitor.TakeDisconnected()) return gone();
    }
  } catch (const zmq::error_t& error) {
    return Unavailable("KV agent in {}: {}", path_, error.what());
  }
}

absl::StatusOr<AgentMessage> AgentTier::Call(AgentMessage request, Clock::time_point deadline) {
  const AgentFrame frame{.call = next_call_.fetch_add(1), .message = std::move(request)};
  std::unique_ptr<AgentConnection> connection;
  {
    const MutexLock lock(mutex_);
    if (down_until_ && Clock::now() < *down_until_) {
      return Unavailable("KV agent in {}: it did not answer just now", path_);
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
    absl::StatusOr<std::unique_ptr<AgentConnection>> fresh = Connect();
    if (fresh.ok()) {
      connection = std::move(*fresh);
      answer = Exchange(*connection, frame, deadline);
    } else {
      answer = fresh.status();
    }
  }
  const MutexLock lock(mutex_);
  if (answer.ok()) {
    idle_.push_back(std::move(connection));
    down_until_.reset();
  } else {
    idle_.clear();
    down_until_ = Clock::now() + options_.down;
  }
  return answer;
}

template <typename Kind>
absl::StatusOr<Kind> AgentTier::CallFor(AgentMessage request, Clock::time_point deadline) {
  return Expect<Kind>(Call(std::move(request), deadline));
}

absl::Status AgentTier::CallForStatus(AgentMessage request, Clock::time_point deadline) {
  return ExpectStatus(Call(std::move(request), deadline));
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
  using Found = std::optional<FoundRecord>;
  const auto deadline = Clock::now() + options_.deadline;
  return AnswersTo<Found>(
      keys, [&](std::vector<RecordKey> asked) -> absl::StatusOr<std::vector<Found>> {
        TANDEM_ASSIGN_OR_RETURN(AgentFound found,
                                CallFor<AgentFound>(AgentGet{.keys = std::move(asked)}, deadline));
        return std::move(found.records);
      });
}

std::vector<std::optional<TierKind>> AgentTier::Where(std::span<const RecordKey> keys) {
  using Where = std::optional<TierKind>;
  const auto deadline = Clock::now() + options_.deadline;
  return AnswersTo<Where>(
      keys, [&](std::vector<RecordKey> asked) -> absl::StatusOr<std::vector<Where>> {
        TANDEM_ASSIGN_OR_RETURN(
            AgentExisting existing,
            CallFor<AgentExisting>(AgentExists{.keys = std::move(asked)}, deadline));
        return std::move(existing.where);
      });
}

std::vector<PeekedRecord> AgentTier::Peek(TierKind tier, std::span<const RecordKey> keys) {
  return AnswersTo<PeekedRecord>(
      keys, [&](std::vector<RecordKey> asked) -> absl::StatusOr<std::vector<PeekedRecord>> {
        TANDEM_ASSIGN_OR_RETURN(
            AgentPeeked peeked,
            CallFor<AgentPeeked>(AgentPeekQuery{.tier = tier, .keys = std::move(asked)},
                                 Clock::now() + options_.deadline));
        return std::move(peeked.records);
      });
}

void AgentTier::Use(std::span<const RecordKey> keys) {
  const auto deadline = Clock::now() + options_.deadline;
  for (const auto part : PartsOf(keys, kKeysInOne)) {
    if (!CallForStatus(AgentUse{.keys = {part.begin(), part.end()}}, deadline).ok()) return;
  }
}

absl::Status AgentTier::Flush() {
  return CallForStatus(AgentFlush(), Clock::now() + options_.flush_deadline);
}

absl::Status AgentTier::Erase(std::span<const BlockHash> blocks) {
  const auto deadline = Clock::now() + options_.flush_deadline;
  for (const auto part : PartsOf(blocks, kKeysInOne)) {
    TANDEM_RETURN_IF_ERROR(
        CallForStatus(AgentErase{.blocks = {part.begin(), part.end()}}, deadline));
  }
  return absl::OkStatus();
}

absl::Status AgentTier::Drop(std::span<const RecordKey> keys) {
  const auto deadline = Clock::now() + options_.flush_deadline;
  for (const auto part : PartsOf(keys, kKeysInOne)) {
    TANDEM_RETURN_IF_ERROR(CallForStatus(AgentDrop{.keys = {part.begin(), part.end()}}, deadline));
  }
  return absl::OkStatus();
}

AgentStats AgentTier::AskStats() {
  auto stats = CallFor<AgentStats>(AgentStatsQuery(), Clock::now() + options_.deadline);
  return stats.ok() ? *std::move(stats) : AgentStats();
}

TierStats AgentTier::Stats() { return AskStats().all; }

std::vector<std::pair<TierKind, TierStats>> AgentTier::StatsByTier() { return AskStats().by_tier; }

absl::StatusOr<std::vector<ListedBlock>> AgentTier::List(const std::optional<BlockHash>& after,
                                                         size_t most) {
  constexpr size_t kMost = std::numeric_limits<uint32_t>::max();
  const AgentListQuery query{.after = after, .most = static_cast<uint32_t>(std::min(most, kMost))};
  TANDEM_ASSIGN_OR_RETURN(AgentListing listing,
                          CallFor<AgentListing>(query, Clock::now() + options_.deadline));
  return std::move(listing.blocks);
}

absl::Status AgentTier::Renew() {
  return CallForStatus(AgentRenew(), Clock::now() + options_.deadline);
}

absl::StatusOr<AgentPeer> AgentTier::Listen(const std::string& address) {
  TANDEM_ASSIGN_OR_RETURN(const AgentIdentity identity,
                          CallFor<AgentIdentity>(AgentListen{.address = address},
                                                 Clock::now() + options_.meet_deadline));
  return identity.self;
}

absl::Status AgentTier::Introduce(AgentIntroduction introduction) {
  return CallForStatus(std::move(introduction), Clock::now() + options_.meet_deadline);
}

absl::Status AgentTier::StopAgent() {
  return CallForStatus(AgentStop(), Clock::now() + options_.deadline);
}

}  // namespace tandem::kv_store
