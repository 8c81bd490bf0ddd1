#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace tandem::kv_store {

/// Bytes that several hold and nobody changes: a copy of this is another hold on the same bytes.
/// Thread safety: as a shared_ptr to something const.
class SharedBytes {
 public:
  SharedBytes() = default;
  /// Whoever has made bytes hands them over.
  SharedBytes(std::vector<std::byte> bytes) : size_(bytes.size()) {
    auto owner = std::make_shared<const std::vector<std::byte>>(std::move(bytes));
    const std::byte* data = owner->data();
    data_ = std::shared_ptr<const std::byte>(std::move(owner), data);
  }
  /// Bytes that live as long as `owner`.
  SharedBytes(std::span<const std::byte> bytes, std::shared_ptr<const void> owner)
      : data_(std::move(owner), bytes.data()), size_(bytes.size()) {}

  const std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  const std::byte* begin() const { return data(); }
  const std::byte* end() const { return data() + size_; }
  std::span<const std::byte> span() const { return {data(), size_}; }

  /// Those behind the first `skipped`, at most size().
  SharedBytes From(size_t skipped) const { return {span().subspan(skipped), data_}; }

  /// A copy that may be changed.
  std::vector<std::byte> Copy() const { return {begin(), end()}; }

  /// Whether they are the same, byte by byte.
  friend bool operator==(const SharedBytes& a, const SharedBytes& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
  }

 private:
  std::shared_ptr<const std::byte> data_;
  size_t size_ = 0;
};

}  // namespace tandem::kv_store
