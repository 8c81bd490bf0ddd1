#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>
#include <utility>

#include "kv_store/tier.h"

namespace tandem::testing {

/// A tier before another one that is slow, loses, damages or refuses records as a test says.
/// Thread safety: as Tier; hooks are set before it is used.
class FaultyTier final : public kv_store::Tier {
 public:
  explicit FaultyTier(kv_store::Tier& behind) : behind_(behind) {}

  /// Called for what Get found, which it may change or take away.
  std::function<void(const kv_store::RecordKey&, std::optional<kv_store::FoundRecord>&)> on_get;
  std::atomic<std::chrono::milliseconds> get_takes{std::chrono::milliseconds(0)};
  std::atomic<std::chrono::milliseconds> exists_takes{std::chrono::milliseconds(0)};
  std::atomic<std::chrono::milliseconds> put_takes{std::chrono::milliseconds(0)};
  std::atomic<std::chrono::milliseconds> flush_takes{std::chrono::milliseconds(0)};
  std::atomic<bool> refuses = false;  // Put keeps nothing
  std::atomic<kv_store::TierKind> from{kv_store::TierKind::kHost};
  std::atomic<int> puts = 0;
  std::atomic<int> gets = 0;
  std::atomic<int> flushes = 0;

  absl::Status Put(std::span<const kv_store::TierRecord> records) override {
    ++puts;
    std::this_thread::sleep_for(put_takes.load());
    if (refuses) return ResourceExhausted("the disk is full");
    return behind_.Put(records);
  }
  std::vector<std::optional<kv_store::FoundRecord>> Get(
      std::span<const kv_store::RecordKey> keys) override {
    ++gets;
    std::this_thread::sleep_for(get_takes.load());
    auto found = behind_.Get(keys);
    for (size_t i = 0; i < found.size(); ++i) {
      if (found[i]) found[i]->from = from.load();
      if (on_get) on_get(keys[i], found[i]);
    }
    return found;
  }
  std::vector<bool> Exists(std::span<const kv_store::RecordKey> keys) override {
    std::this_thread::sleep_for(exists_takes.load());
    return behind_.Exists(keys);
  }
  absl::Status Flush() override {
    ++flushes;
    std::this_thread::sleep_for(flush_takes.load());
    return behind_.Flush();
  }
  absl::Status Erase(std::span<const kv_store::BlockHash> blocks) override {
    return behind_.Erase(blocks);
  }
  kv_store::TierStats Stats() override { return behind_.Stats(); }

 private:
  kv_store::Tier& behind_;
};

}  // namespace tandem::testing
