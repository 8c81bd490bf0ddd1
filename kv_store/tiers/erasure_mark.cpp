#include "kv_store/tiers/erasure_mark.h"

#include <sodium.h>

#include <array>

#include "kv_store/base/files.h"
#include "kv_store/base/hex.h"

namespace tandem::kv_store {
namespace {

constexpr size_t kNumberBytes = 16;
constexpr size_t kDigits = 2 * kNumberBytes;

std::string Draw() {
  std::array<uint8_t, kNumberBytes> number{};
  randombytes_buf(number.data(), number.size());
  return Hex(number);
}

}  // namespace

bool ErasureMark::FolderIsOlder() const {
  if (outside_.empty()) return false;
  const auto outside = ReadSmallFile(outside_);
  // The folder has a number only where the file outside had one before: somebody removed that.
  if (absl::IsNotFound(outside.status())) return Exists(inside_);
  // Of one that cannot be read nobody knows: records can be computed again, and what was deleted
  // must not come back.
  if (!outside.ok()) return true;
  const auto inside = ReadSmallFile(inside_);
  return !inside.ok() || inside->size() != kDigits || outside->find(*inside) == std::string::npos;
}

absl::Status ErasureMark::Accept() const {
  if (outside_.empty()) return absl::OkStatus();
  const auto outside = ReadSmallFile(outside_);
  if (absl::IsNotFound(outside.status()) && !Exists(inside_)) return absl::OkStatus();
  if (!outside.ok()) return Note();
  const auto inside = ReadSmallFile(inside_);
  return inside.ok() && *inside == *outside ? absl::OkStatus() : Note();
}

absl::Status ErasureMark::Note() const {
  if (outside_.empty()) return absl::OkStatus();
  const std::string number = Draw();
  const auto before = ReadSmallFile(inside_);
  // Of what ends here, the folder keeps the number that it had, and whoever asked will ask again.
  TANDEM_RETURN_IF_ERROR(WriteWholeFile(outside_, number + (before.ok() ? "\n" + *before : "")));
  TANDEM_RETURN_IF_ERROR(WriteWholeFile(inside_, number));
  return WriteWholeFile(outside_, number);
}

}  // namespace tandem::kv_store
