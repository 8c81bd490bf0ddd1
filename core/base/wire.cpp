#include "core/base/wire.h"

namespace tandem::core {

// Inlined, it makes g++ 12 warn of sizes that cannot be.
void WireWriter::Raw(std::span<const std::byte> bytes) {
  bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
}

void WireReader::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

void WireReader::Bytes(std::span<std::byte> bytes) {
  Require(bytes.size() <= left(), "cut short: {} more bytes wanted at offset {}, {} are left",
          bytes.size(), at_, left());
  if (!status_.ok() || bytes.empty()) return;
  std::memcpy(bytes.data(), bytes_.data() + at_, bytes.size());
  at_ += bytes.size();
}

size_t WireReader::Checked(size_t count, size_t most, size_t least, std::string_view of) {
  Require(count <= most, "{} {}, at most {} are allowed", count, of, most);
  Require(count <= left() / least, "{} {} cannot stand in the {} bytes that are left", count, of,
          left());
  return status_.ok() ? count : 0;
}

absl::Status WireReader::Finish() {
  Require(left() == 0, "{} bytes are left over after the end", left());
  return status_;
}

}  // namespace tandem::core
