#include "core/base/wire.h"

namespace tandem::core {

bool WireReader::Need(size_t size) {
  if (!status_.ok()) return false;
  if (size <= left()) return true;
  Fail(InvalidArgument("{}: cut short: {} more bytes wanted at offset {}, {} are left", what_, size,
                       at_, left()));
  return false;
}

void WireReader::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

bool WireReader::Bool() {
  const auto value = Number<uint8_t>();
  if (value > 1) Fail(InvalidArgument("{}: a flag is {}, expected 0 or 1", what_, value));
  return value == 1;
}

size_t WireReader::Count(size_t limit, size_t bytes_each, std::string_view of) {
  const size_t count = Number<uint32_t>();
  if (!status_.ok()) return 0;
  if (count > limit) {
    Fail(InvalidArgument("{}: {} {}, at most {} are allowed", what_, count, of, limit));
    return 0;
  }
  if (count * bytes_each > left()) {
    Fail(InvalidArgument("{}: {} {} cannot stand in the {} bytes that are left", what_, count, of,
                         left()));
    return 0;
  }
  return count;
}

std::string WireReader::Text(size_t limit, std::string_view of) {
  std::string text(Count(limit, 1, of), '\0');
  if (!text.empty()) std::memcpy(text.data(), bytes_.data() + at_, text.size());
  at_ += text.size();
  return text;
}

std::vector<std::byte> WireReader::Raw(size_t size) {
  if (!Need(size)) return {};
  const auto part = bytes_.subspan(at_, size);
  at_ += size;
  return {part.begin(), part.end()};
}

absl::Status WireReader::Finish() {
  if (status_.ok() && left() > 0) {
    Fail(InvalidArgument("{}: {} bytes are left over after the end", what_, left()));
  }
  return status_;
}

}  // namespace tandem::core
