#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "core/model/device_link.h"

namespace tandem::parallel {

/// Two links between the same devices: what has at most `most_bytes` goes by the first, all else by
/// the second. Both put work into one stream. All ranks have the same `most_bytes`. Thread safety:
/// as DeviceLink.
class PairedLink final : public core::DeviceLink {
 public:
  PairedLink(std::unique_ptr<core::DeviceLink> small, std::unique_ptr<core::DeviceLink> large,
             size_t most_bytes, std::string name)
      : small_(std::move(small)),
        large_(std::move(large)),
        most_bytes_(most_bytes),
        name_(std::move(name)) {}

  std::string_view name() const override { return name_; }
  absl::Status AllReduceSum(std::span<int64_t> values) override {
    return For(values.size_bytes()).AllReduceSum(values);
  }
  absl::Status AllReduceSum(std::span<float> values) override {
    return For(values.size_bytes()).AllReduceSum(values);
  }
  std::span<std::byte> FloatSums(size_t bytes) override { return large_->FloatSums(bytes); }
  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    return For(all.size()).AllGather(mine, all);
  }
  absl::Status Health() override {
    TANDEM_RETURN_IF_ERROR(small_->Health());
    return large_->Health();
  }
  void Abort() override {
    small_->Abort();
    large_->Abort();
  }
  absl::Status Finish(std::chrono::milliseconds patience) override {
    // The first one waits for the stream, and so for both.
    absl::Status status = small_->Finish(patience);
    if (status.ok()) status = large_->Health();
    if (!status.ok()) Abort();
    return status;
  }

 private:
  core::DeviceLink& For(size_t bytes) { return bytes <= most_bytes_ ? *small_ : *large_; }

  std::unique_ptr<core::DeviceLink> small_;
  std::unique_ptr<core::DeviceLink> large_;
  const size_t most_bytes_;
  const std::string name_;
};

}  // namespace tandem::parallel
