#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>
#include <utility>

#include "kv_store/records/tier.h"

namespace tandem::testing {

/// A tier before another one that is slow, loses, damages or refuses records as a test says.
/// Thread safety: as Tier; hooks are set before it is used.
class FaultyTier final : public kv_store::Tier {
 public:
  explicit FaultyTier(kv_store::Tier& behind) : behind_(behind) {}

  /// Called for what Get found, which it may change or take away.
  std::function<void(const kv_store::RecordKey&, std::optional<kv_store::FoundRecord>&)> on_get;
  /// Records for which it says true are not there.
  std::function<bool(const kv_store::RecordKey&)> hides;
  std::atomic<std::chrono::milliseconds> get_takes{std::chrono::milliseconds(0)};
  std::atomic<std::chrono::milliseconds> put_takes{std::chrono::milliseconds(0)};
  /// As long as one is set, that function does not return.
  std::atomic<bool> holds_get = false;
  std::atomic<bool> holds_exists = false;
  std::atomic<bool> holds_put = false;
  std::atomic<bool> holds_flush = false;
  std::atomic<bool> refuses = false;  // Put keeps nothing
  std::atomic<kv_store::TierKind> from{kv_store::TierKind::kHost};
  std::atomic<int> puts = 0;
  std::atomic<int> gets = 0;
  std::atomic<int> flushes = 0;

  absl::Status Put(std::span<const kv_store::TierRecord> records) override {
    ++puts;
    std::this_thread::sleep_for(put_takes.load());
    WaitWhile(holds_put);
    if (refuses) return ResourceExhausted("the disk is full");
    return behind_.Put(records);
  }
  std::vector<std::optional<kv_store::FoundRecord>> Get(
      std::span<const kv_store::RecordKey> keys) override {
    ++gets;
    std::this_thread::sleep_for(get_takes.load());
    WaitWhile(holds_get);
    auto found = behind_.Get(keys);
    for (size_t i = 0; i < found.size(); ++i) {
      if (hides && hides(keys[i])) found[i].reset();
      if (found[i]) found[i]->from = from.load();
      if (on_get) on_get(keys[i], found[i]);
    }
    return found;
  }
  std::vector<std::optional<kv_store::TierKind>> Where(
      std::span<const kv_store::RecordKey> keys) override {
    WaitWhile(holds_exists);
    auto found = behind_.Where(keys);
    for (size_t i = 0; hides && i < found.size(); ++i) {
      if (hides(keys[i])) found[i].reset();
    }
    return found;
  }
  absl::Status Flush() override {
    ++flushes;
    WaitWhile(holds_flush);
    return behind_.Flush();
  }
  absl::Status Erase(std::span<const kv_store::BlockHash> blocks) override {
    return behind_.Erase(blocks);
  }
  kv_store::TierStats Stats() override { return behind_.Stats(); }

 private:
  static void WaitWhile(const std::atomic<bool>& held) {
    // A test that has failed does not let go.
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (held && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  kv_store::Tier& behind_;
};

}  // namespace tandem::testing
