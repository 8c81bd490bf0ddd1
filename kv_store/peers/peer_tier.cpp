#include "kv_store/peers/peer_tier.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <string_view>
#include <utility>

#include "core/base/counted.h"
#include "kv_store/agent_link/agent_answers.h"
#include "kv_store/base/parts.h"
#include "kv_store/base/rendezvous.h"

namespace tandem::kv_store {
namespace {

// Keys, blocks or records in one request. Their answer may take several.
constexpr size_t kItemsInOne = 4096;

/// Peers by how much a hash prefers them, the most preferred first.
std::vector<PeerCalls::PeerPointer> InOrder(std::vector<PeerCalls::PeerPointer> peers,
                                            const std::array<uint8_t, 32>& hash) {
  const uint64_t bits = BlockHashBits()(hash);
  const auto score = [bits](const PeerCalls::PeerPointer& peer) {
    return RendezvousScore(bits, PeerCalls::WhoIs(*peer).host);
  };
  std::sort(peers.begin(), peers.end(),
            [&](const auto& a, const auto& b) { return score(a) > score(b); });
  return peers;
}

}  // namespace

PeerTier::PeerTier(CurveKeys keys, const PeerTierOptions& options)
    : options_(options), calls_(std::move(keys), options.calls) {}

void PeerTier::SetPeers(const std::vector<Member>& members) {
  std::vector<AgentPeer> peers;
  std::set<std::string> copying;
  std::set<std::string> in_job;
  for (const Member& member : members) {
    peers.push_back(member.peer);
    if (member.keeps_copies) copying.insert(member.peer.host);
    if (member.in_job) in_job.insert(member.peer.host);
  }
  known_ = peers.size();
  copying_ = copying.size();
  {
    const MutexLock lock(mutex_);
    copy_hosts_ = std::move(copying);
    job_hosts_ = std::move(in_job);
  }
  calls_.SetPeers(peers);
}

bool PeerTier::Await(const std::vector<std::string>& hosts, std::chrono::milliseconds patience) {
  return calls_.Await(hosts, Clock::now() + patience);
}

std::vector<PeerCalls::PeerPointer> PeerTier::Up() const {
  std::vector<PeerPointer> peers = calls_.Peers();
  std::erase_if(peers, [this](const PeerPointer& peer) { return !calls_.IsUp(*peer); });
  return peers;
}

std::vector<std::string> PeerTier::UpInJob() const {
  std::vector<std::string> hosts;
  const std::vector<PeerPointer> up = Up();
  const MutexLock lock(mutex_);
  for (const PeerPointer& peer : up) {
    const std::string& host = PeerCalls::WhoIs(*peer).host;
    if (job_hosts_.contains(host)) hosts.push_back(host);
  }
  return hosts;
}

std::vector<PeerCalls::PeerPointer> PeerTier::Copying() const {
  std::vector<PeerPointer> peers = calls_.Peers();
  const MutexLock lock(mutex_);
  std::erase_if(peers, [this](const PeerPointer& peer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !copy_hosts_.contains(PeerCalls::WhoIs(*peer).host);
  });
  return peers;
}

absl::Status PeerTier::PutRound(std::span<const TierRecord> records, std::vector<size_t>& pending,
                                Clock::time_point deadline) {
  std::vector<PeerPointer> up = Copying();
  std::string hosts;
  for (const PeerPointer& peer : up) hosts += " " + PeerCalls::WhoIs(*peer).host;
  std::erase_if(up, [this](const PeerPointer& peer) { return !calls_.IsUp(*peer); });
  if (up.empty()) {
    return Unavailable("KV: no second copy of {}: none of these hosts' agents answers:{}",
                       Counted(static_cast<int64_t>(pending.size()), "record"), hosts);
  }
  struct Part {
    PeerPointer peer;
    AgentPut put;
    std::vector<size_t> records;
    int64_t bytes = 0;
  };
  std::map<const PeerCalls::Peer*, Part> parts;
  std::vector<size_t> later;
  for (const size_t i : pending) {
    const PeerPointer peer = InOrder(up, records[i].block).front();
    Part& part = parts[peer.get()];
    const auto bytes = static_cast<int64_t>(records[i].bytes.size());
    if (!part.records.empty() &&
        (part.bytes + bytes > options_.batch_bytes || part.records.size() == kItemsInOne)) {
      later.push_back(i);
      continue;
    }
    part.peer = peer;
    part.bytes += bytes;
    part.records.push_back(i);
    part.put.records.push_back(records[i]);
  }
  std::vector<PeerCalls::Question> questions;
  std::vector<const Part*> asked;
  for (auto& [peer, part] : parts) {
    questions.push_back({.peer = part.peer, .message = std::move(part.put)});
    asked.push_back(&part);
  }
  const auto answers = calls_.Ask(questions, deadline);
  absl::Status first;
  for (size_t q = 0; q < answers.size(); ++q) {
    if (!answers[q].ok()) {  // the next peer's, in the next round
      later.insert(later.end(), asked[q]->records.begin(), asked[q]->records.end());
      continue;
    }
    if (first.ok()) first = ExpectStatus(answers[q]);
    const MutexLock lock(mutex_);
    dirty_hosts_.insert(PeerCalls::WhoIs(*asked[q]->peer).host);
  }
  std::sort(later.begin(), later.end());
  pending = std::move(later);
  return first;
}

absl::Status PeerTier::Put(std::span<const TierRecord> records) {
  if (!keeps_copies() || records.empty()) return absl::OkStatus();
  const auto deadline = Clock::now() + options_.deadline;
  std::vector<size_t> pending(records.size());
  for (size_t i = 0; i < pending.size(); ++i) pending[i] = i;
  absl::Status first;
  while (!pending.empty()) {
    absl::Status status = Clock::now() < deadline
                              ? PutRound(records, pending, deadline)
                              : absl::DeadlineExceededError(fmt::format(
                                    "KV: no second copy of {} in time",
                                    Counted(static_cast<int64_t>(pending.size()), "record")));
    const bool go_on = status.ok() || absl::IsResourceExhausted(status);
    if (first.ok()) first = std::move(status);
    if (!go_on) break;
  }
  refused_ += pending.size();
  return first;
}

std::vector<std::vector<PeerCalls::PeerPointer>> PeerTier::Holders(std::span<const RecordKey> keys,
                                                                   Clock::time_point deadline) {
  std::vector<std::vector<PeerPointer>> holders(keys.size());
  const std::vector<PeerPointer> up = Up();
  size_t first = 0;
  for (const auto part : PartsOf(keys, kItemsInOne)) {
    const auto answers =
        calls_.AskAll(up, AgentExists{.keys = {part.begin(), part.end()}}, deadline);
    for (size_t p = 0; p < up.size(); ++p) {
      const auto* existing = answers[p].ok() ? std::get_if<AgentExisting>(&*answers[p]) : nullptr;
      if (existing == nullptr || existing->where.size() != part.size()) continue;
      for (size_t k = 0; k < part.size(); ++k) {
        if (existing->where[k]) holders[first + k].push_back(up[p]);
      }
    }
    first += part.size();
  }
  for (size_t k = 0; k < keys.size(); ++k) {
    if (holders[k].size() > 1) holders[k] = InOrder(std::move(holders[k]), keys[k]);
  }
  return holders;
}

std::vector<std::optional<FoundRecord>> PeerTier::Get(std::span<const RecordKey> keys) {
  std::vector<std::optional<FoundRecord>> found(keys.size());
  const auto now = Clock::now();
  const auto deadline = now + options_.deadline;
  const std::vector<PeerPointer> up = Up();
  // Where there is only one to ask, he need not be asked twice.
  std::vector<std::vector<PeerPointer>> holders =
      up.size() > 1 ? Holders(keys, now + std::min(options_.exists_deadline, options_.deadline))
                    : std::vector<std::vector<PeerPointer>>(keys.size(), up);
  for (auto& in_order : holders) std::reverse(in_order.begin(), in_order.end());
  // From now on: who is to be asked next stands at the end.
  for (;;) {
    std::map<const PeerCalls::Peer*, std::vector<size_t>> asked;
    for (size_t k = 0; k < keys.size(); ++k) {
      if (found[k] || holders[k].empty()) continue;
      std::vector<size_t>& of_peer = asked[holders[k].back().get()];
      if (of_peer.size() < kItemsInOne) of_peer.push_back(k);
    }
    if (asked.empty() || Clock::now() >= deadline) break;
    std::vector<PeerCalls::Question> questions;
    std::vector<const std::vector<size_t>*> places;
    for (const auto& [peer, of_peer] : asked) {
      AgentGet get;
      for (const size_t k : of_peer) get.keys.push_back(keys[k]);
      questions.push_back({.peer = holders[of_peer.front()].back(), .message = std::move(get)});
      places.push_back(&of_peer);
    }
    auto answers = calls_.Ask(questions, deadline);
    for (size_t q = 0; q < answers.size(); ++q) {
      auto* part = answers[q].ok() ? std::get_if<AgentFound>(&*answers[q]) : nullptr;
      const bool good =
          part != nullptr && !part->records.empty() && part->records.size() <= places[q]->size();
      const size_t told = good ? part->records.size() : places[q]->size();
      for (size_t i = 0; i < told; ++i) {
        const size_t k = (*places[q])[i];
        holders[k].pop_back();
        if (!good || !part->records[i]) continue;
        found[k] = std::move(part->records[i]);
        found[k]->from = TierKind::kRemote;
      }
    }
  }
  const auto hits = static_cast<uint64_t>(
      std::count_if(found.begin(), found.end(), [](const auto& one) { return one.has_value(); }));
  hits_ += hits;
  misses_ += keys.size() - hits;
  return found;
}

std::vector<std::optional<TierKind>> PeerTier::Where(std::span<const RecordKey> keys) {
  std::vector<std::optional<TierKind>> where;
  where.reserve(keys.size());
  for (const auto& holders : Holders(keys, Clock::now() + options_.exists_deadline)) {
    where.push_back(holders.empty() ? std::nullopt : std::optional(TierKind::kRemote));
  }
  return where;
}

void PeerTier::Use(std::span<const RecordKey> keys) {
  const std::vector<PeerPointer> copying = Copying();
  const auto deadline = Clock::now() + options_.exists_deadline;
  for (const auto part : PartsOf(keys, kItemsInOne)) {
    static_cast<void>(
        calls_.AskAll(copying, AgentUse{.keys = {part.begin(), part.end()}}, deadline));
  }
}

absl::Status PeerTier::Flush() {
  std::set<std::string> dirty;
  {
    const MutexLock lock(mutex_);
    dirty = std::exchange(dirty_hosts_, {});
  }
  std::vector<PeerPointer> peers = calls_.Peers();
  std::erase_if(peers, [&](const PeerPointer& peer) {
    return !dirty.contains(PeerCalls::WhoIs(*peer).host);
  });
  absl::Status first;
  for (auto& answer : calls_.AskAll(peers, AgentFlush(), Clock::now() + options_.flush_deadline)) {
    if (first.ok()) first = ExpectStatus(std::move(answer));
  }
  return first;
}

absl::Status PeerTier::Erase(std::span<const BlockHash> blocks) {
  const auto deadline = Clock::now() + options_.flush_deadline;
  absl::Status first;
  for (const auto part : PartsOf(blocks, kItemsInOne)) {
    absl::Status status = EraseOnAll(AgentErase{.blocks = {part.begin(), part.end()}},
                                     "KV of deleted conversations", deadline);
    if (first.ok()) first = std::move(status);
  }
  return first;
}

absl::Status PeerTier::EraseOnAll(const AgentMessage& message, std::string_view what,
                                  Clock::time_point deadline) {
  const std::vector<PeerPointer> peers = calls_.Peers();
  auto answers = calls_.AskAll(peers, message, deadline);
  for (size_t p = 0; p < peers.size(); ++p) {
    const absl::Status status = ExpectStatus(std::move(answers[p]));
    if (status.ok()) continue;
    const std::string& host = PeerCalls::WhoIs(*peers[p]).host;
    return Unavailable("{} may be left on host {}: {}; if that host is gone for good, remove {}/{}",
                       what, host, Message(status), options_.registry_folder, host);
  }
  return absl::OkStatus();
}

TierStats PeerTier::Counts() const {
  TierStats counts;
  counts.hits = hits_;
  counts.misses = misses_;
  counts.refused = refused_;
  return counts;
}

TierStats PeerTier::Stats() {
  TierStats sum = Counts();
  for (const auto& answer :
       calls_.AskAll(Up(), AgentStatsQuery(), Clock::now() + options_.exists_deadline)) {
    const auto* stats = answer.ok() ? std::get_if<AgentStats>(&*answer) : nullptr;
    if (stats == nullptr) continue;
    sum.records += stats->all.records;
    sum.blocks += stats->all.blocks;
    sum.bytes += stats->all.bytes;
    sum.bytes_limit += stats->all.bytes_limit;
    sum.evicted += stats->all.evicted;
    sum.refused += stats->all.refused;
    sum.dropped += stats->all.dropped;
  }
  return sum;
}

}  // namespace tandem::kv_store
