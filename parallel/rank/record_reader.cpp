#include "parallel/rank/record_reader.h"

#include <algorithm>
#include <bit>
#include <future>
#include <utility>

namespace tandem::parallel {
namespace {

// Asked for at once: enough that a tier's fixed costs do not count, few enough that the first
// missing record is soon found out.
constexpr size_t kBlocksAtOnce = 8;

bool Asked(const FetchBlock& block, size_t group) { return ((block.groups >> group) & 1U) != 0; }

}  // namespace

RecordReader::RecordReader(kv_store::Tier& tier, const kv_store::PagePool& pool, Options options)
    : tier_(tier), pool_(pool), options_(std::move(options)), thread_([this] { Run(); }) {}

RecordReader::~RecordReader() { Stop(); }

void RecordReader::Stop() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
    for (auto& [id, fetched] : fetches_) fetched->ended = true;
    changed_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

void RecordReader::Fetch(BlockFetch fetch) {
  auto fetched = std::make_shared<Fetched>();
  fetched->blocks = std::move(fetch.blocks);
  const MutexLock lock(mutex_);
  fetches_[fetch.id] = fetched;
  jobs_.emplace_back(FetchJob{.id = fetch.id, .fetched = std::move(fetched)});
  changed_.NotifyAll();
}

void RecordReader::End(FetchId fetch) {
  const MutexLock lock(mutex_);
  const auto found = fetches_.find(fetch);
  if (found == fetches_.end()) return;
  found->second->ended = true;
  fetches_.erase(found);
}

void RecordReader::Probe(RecordProbe probe) {
  const MutexLock lock(mutex_);
  jobs_.emplace_back(std::move(probe));
  changed_.NotifyAll();
}

RecordReader::Counts RecordReader::counts() const {
  const MutexLock lock(mutex_);
  return counts_;
}

size_t RecordReader::open_fetches() const {
  const MutexLock lock(mutex_);
  return fetches_.size();
}

void RecordReader::Run() {
  for (;;) {
    std::optional<Job> job;
    {
      const MutexLock lock(mutex_);
      while (!stopping_ && jobs_.empty()) changed_.Wait(mutex_);
      if (stopping_) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    if (const auto* probe = std::get_if<RecordProbe>(&*job)) {
      options_.on_probed(probe->id,
                         FindSaved(tier_, options_.fingerprint, pool_.view().geometry().groups,
                                   static_cast<int32_t>(options_.kv_heads.begin), *probe));
    } else {
      Do(std::get<FetchJob>(*job));
    }
  }
}

void RecordReader::Do(const FetchJob& job) {
  Fetched& fetched = *job.fetched;
  const auto ended = [&] {
    const MutexLock lock(mutex_);
    return fetched.ended;
  };
  // The next part is on its way while one is checked.
  size_t asked = 0;
  const auto ask = [&]() -> std::future<Part> {
    if (asked == fetched.blocks.size() || ended()) return {};
    const size_t first =
        std::exchange(asked, asked + std::min(kBlocksAtOnce, fetched.blocks.size() - asked));
    return std::async(std::launch::async, [this, &fetched, first, blocks = asked - first] {
      return Get(fetched, first, blocks);
    });
  };
  bool whole = true;
  for (std::future<Part> next = ask(); whole && next.valid();) {
    Part part = next.get();
    next = ask();
    whole = Take(std::move(part), fetched);
  }
  std::vector<kv_store::TierKind> from;
  for (const auto& records : fetched.records) {
    const auto farthest =
        std::max_element(records.begin(), records.end(),
                         [](const auto& a, const auto& b) { return a.from < b.from; });
    from.push_back(farthest == records.end() ? kv_store::TierKind::kHost : farthest->from);
  }
  {
    const MutexLock lock(mutex_);
    fetched.done = true;
  }
  options_.on_fetched(job.id, std::move(from));
}

kv_store::RecordName RecordReader::NameOf(const FetchBlock& block, int32_t group,
                                          int64_t rank_head) const {
  return {.block = block.hash,
          .tokens = block.tokens,
          .kv_head = static_cast<int32_t>(options_.kv_heads.begin + rank_head),
          .group = group};
}

RecordReader::Part RecordReader::Get(const Fetched& fetched, size_t first_block, size_t blocks) {
  const auto groups = static_cast<int32_t>(pool_.view().geometry().groups.size());
  Part part;
  part.blocks = blocks;
  std::vector<kv_store::RecordKey> keys;
  for (size_t b = first_block; b < first_block + blocks; ++b) {
    for (int32_t g = 0; g < groups; ++g) {
      if (!Asked(fetched.blocks[b], static_cast<size_t>(g))) continue;
      for (int64_t head = 0; head < options_.kv_heads.count; ++head) {
        part.names.push_back(NameOf(fetched.blocks[b], g, head));
        keys.push_back(kv_store::RecordKeyOf(options_.fingerprint, part.names.back()));
      }
    }
  }
  part.found = tier_.Get(keys);
  part.found.resize(keys.size());
  return part;
}

bool RecordReader::Take(Part part, Fetched& fetched) {
  size_t next = 0;
  Counts counts;
  bool whole = true;
  for (size_t b = 0; b < part.blocks && whole; ++b) {
    std::vector<kv_store::FoundRecord> records;
    const size_t end =
        next + static_cast<size_t>(std::popcount(fetched.blocks[fetched.records.size()].groups) *
                                   options_.kv_heads.count);
    for (; next < end && whole; ++next) {
      std::optional<kv_store::FoundRecord>& found = part.found[next];
      whole = found.has_value();
      if (!whole) break;
      whole = kv_store::CheckRecord(found->bytes, options_.fingerprint, part.names[next],
                                    pool_.view().geometry())
                  .ok();
      ++(whole ? counts.fetched : counts.damaged);
      if (whole) records.push_back(*std::move(found));
    }
    if (whole) fetched.records.push_back(std::move(records));
  }
  const MutexLock lock(mutex_);
  counts_.fetched += counts.fetched;
  counts_.damaged += counts.damaged;
  return whole;
}

absl::StatusOr<RecordReader::Fill> RecordReader::Find(const BlockLoad& load) {
  std::shared_ptr<Fetched> fetched;
  {
    const MutexLock lock(mutex_);
    const auto found = fetches_.find(load.fetch);
    if (found != fetches_.end() && found->second->done) fetched = found->second;
  }
  const auto index = static_cast<size_t>(load.index);
  if (!fetched || load.index < 0 || index >= fetched->records.size()) {
    return Internal("step plan: block {} of fetch {} is to be loaded, but was not fetched whole",
                    load.index, load.fetch);
  }
  for (size_t g = 0; g < load.blocks.size(); ++g) {
    if (Asked(fetched->blocks[index], g) || load.blocks[g] == core::kNoBlock) continue;
    return Internal(
        "step plan: block {} of fetch {} is to be loaded in layer group {}, which was not fetched",
        load.index, load.fetch, g);
  }
  return [this, fetched, index](const kv_store::PagePool& pool,
                                std::span<const core::BlockId> blocks) {
    return FillFrom(*fetched, index, pool, blocks);
  };
}

absl::Status RecordReader::FillFrom(const Fetched& fetched, size_t index,
                                    const kv_store::PagePool& pool,
                                    std::span<const core::BlockId> blocks) const {
  const FetchBlock& block = fetched.blocks[index];
  size_t record = 0;
  for (size_t g = 0; g < blocks.size(); ++g) {
    if (!Asked(block, g)) continue;
    for (int64_t head = 0; head < options_.kv_heads.count; ++head, ++record) {
      if (blocks[g] == core::kNoBlock) continue;
      TANDEM_RETURN_IF_ERROR(kv_store::LoadRecord(fetched.records[index][record].bytes,
                                                  NameOf(block, static_cast<int32_t>(g), head),
                                                  pool, blocks[g], static_cast<int>(head)));
    }
  }
  return absl::OkStatus();
}

}  // namespace tandem::parallel
