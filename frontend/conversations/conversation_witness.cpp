#include "frontend/conversations/conversation_witness.h"

#include <fcntl.h>
#include <sodium.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/base/errno_text.h"
#include "core/base/wire.h"
#include "kv_store/base/file_facts.h"
#include "kv_store/base/files.h"

namespace tandem::frontend {
namespace {

constexpr size_t kSumBytes = 8;
constexpr size_t kFieldBytes = kWitnessSlotBytes - kSumBytes;
constexpr uint64_t kIdentitySlots = 2;
constexpr int kKindShift = 56;
constexpr uint64_t kMostSequence = (uint64_t{1} << kKindShift) - 1;
constexpr size_t kReadBytes = size_t{1} << 20;
static_assert(kReadBytes % kWitnessSlotBytes == 0);

using Slot = std::array<std::byte, kWitnessSlotBytes>;
using SlotSum = std::array<std::byte, kSumBytes>;

SlotSum SumOfSlot(std::span<const std::byte> fields, uint64_t number) {
  std::array<unsigned char, crypto_generichash_BYTES_MIN> hash{};
  crypto_generichash_state state;
  crypto_generichash_init(&state, nullptr, 0, hash.size());
  crypto_generichash_update(&state, reinterpret_cast<const unsigned char*>(&number),
                            sizeof(number));
  crypto_generichash_update(&state, reinterpret_cast<const unsigned char*>(fields.data()),
                            fields.size());
  crypto_generichash_final(&state, hash.data(), hash.size());
  SlotSum sum{};
  std::memcpy(sum.data(), hash.data(), sum.size());
  return sum;
}

Slot WithSum(std::span<const std::byte> fields, uint64_t number) {
  Slot slot{};
  std::copy(fields.begin(), fields.end(), slot.begin());
  const SlotSum sum = SumOfSlot(std::span(slot).first(kFieldBytes), number);
  std::copy(sum.begin(), sum.end(), slot.begin() + kFieldBytes);
  return slot;
}

bool SumIsRight(std::span<const std::byte> slot, uint64_t number) {
  const SlotSum sum = SumOfSlot(slot.first(kFieldBytes), number);
  return std::equal(sum.begin(), sum.end(), slot.begin() + kFieldBytes);
}

absl::Status WitnessError(const std::string& path, const char* doing) {
  const int why = errno;
  const std::string text = fmt::format("{}: cannot be {}: {}", path, doing, ErrnoText(why));
  return why == ENOSPC || why == EDQUOT ? absl::ResourceExhaustedError(text)
                                        : absl::UnavailableError(text);
}

/// One byte of length, and the identity.
std::vector<std::byte> IdentityFields(std::span<const std::byte> identity) {
  std::vector<std::byte> fields{static_cast<std::byte>(identity.size())};
  fields.insert(fields.end(), identity.begin(), identity.end());
  return fields;
}

void ReadSlot(std::span<const std::byte> bytes, uint64_t number, WitnessReport& report) {
  if (number < kIdentitySlots) {
    const auto size = std::to_integer<size_t>(bytes[0]);
    if (!SumIsRight(bytes, number) || size >= kFieldBytes) {
      ++report.damaged;
    } else {
      report.identity.assign(bytes.begin() + 1, bytes.begin() + 1 + static_cast<ptrdiff_t>(size));
    }
    return;
  }
  const auto slot = DecodeWitnessSlot(bytes, number);
  if (!slot.ok()) {
    ++report.damaged;
    return;
  }
  if (slot->kind == WitnessSlot::Kind::kWatched) {
    report.watched.push_back(
        {.branch = slot->instance, .first = slot->turns, .last = slot->sequence});
    return;
  }
  report.sequence = std::max(report.sequence, slot->sequence);
  if (!report.watched.empty()) {
    uint64_t& last = report.watched.back().last;
    last = std::max(last, slot->sequence);
  }
  if (slot->kind == WitnessSlot::Kind::kErased) {
    report.slots.erase(slot->conversation);
    report.erased.push_back({.conversation = slot->conversation, .instance = slot->instance});
  } else if (slot->kind != WitnessSlot::Kind::kPosition) {
    report.slots[slot->conversation] = *slot;
  }
}

}  // namespace

WitnessSlot WatchedSlot(const WatchedChanges& watched) {
  return {.kind = WitnessSlot::Kind::kWatched,
          .instance = watched.branch,
          .turns = watched.first,
          .sequence = watched.last};
}

WitnessedPlace PlaceAmong(std::span<const WatchedChanges> watched,
                          const kv_store::JournalPosition& position) {
  uint64_t sequence = position.sequence;
  for (auto branch = position.branches.rbegin(); branch != position.branches.rend(); ++branch) {
    const auto has = [&](const WatchedChanges& one) {
      return one.branch == branch->id && one.first <= sequence && sequence <= one.last;
    };
    if (!watched.empty() && has(watched.back()) && watched.back().last == sequence) {
      return WitnessedPlace::kLast;
    }
    if (std::any_of(watched.begin(), watched.end(), has)) return WitnessedPlace::kEarlier;
    // The change that begins a branch adds no conversation.
    if (sequence != branch->begun + 1) break;
    sequence = branch->begun;
  }
  return WitnessedPlace::kUnknown;
}

std::array<std::byte, kWitnessSlotBytes> EncodeWitnessSlot(const WitnessSlot& slot,
                                                           uint64_t number) {
  core::WireWriter writer;
  const uint64_t kind = uint64_t{static_cast<uint8_t>(slot.kind)} << kKindShift;
  writer(slot.conversation, slot.instance, slot.turns, slot.last.value_or(WitnessHash{}),
         kind | (slot.sequence & kMostSequence));
  return WithSum(writer.bytes(), number);
}

absl::StatusOr<WitnessSlot> DecodeWitnessSlot(std::span<const std::byte> bytes, uint64_t number) {
  if (bytes.size() != kWitnessSlotBytes || !SumIsRight(bytes, number)) {
    return absl::DataLossError("a slot whose checksum is wrong");
  }
  core::WireReader reader("slot of a witness", bytes.first(kFieldBytes));
  WitnessSlot slot;
  WitnessHash last{};
  uint64_t numbered = 0;
  reader(slot.conversation, slot.instance, slot.turns, last, numbered);
  const uint64_t kind = numbered >> kKindShift;
  if (!reader.Finish().ok() || kind > static_cast<uint8_t>(WitnessSlot::Kind::kWatched)) {
    return absl::DataLossError("a slot of no known kind");
  }
  slot.kind = static_cast<WitnessSlot::Kind>(kind);
  slot.sequence = numbered & kMostSequence;
  if (last != WitnessHash{}) slot.last = last;
  return slot;
}

absl::StatusOr<WitnessReport> ConversationWitness::Read(const std::string& path) {
  WitnessReport report;
  const absl::StatusOr<int> opened = kv_store::OpenOwnFile(path, O_RDONLY);
  if (absl::IsNotFound(opened.status())) return report;
  if (!opened.ok()) return opened.status();
  const int file = *opened;
  report.there = true;
  std::vector<std::byte> bytes(kReadBytes);
  size_t had = 0;  // of a slot that goes on in the next piece
  uint64_t number = 0;
  ssize_t got = 0;
  while ((got = read(file, bytes.data() + had, bytes.size() - had)) > 0) {
    const size_t size = had + static_cast<size_t>(got);
    size_t at = 0;
    for (; at + kWitnessSlotBytes <= size; at += kWitnessSlotBytes) {
      ReadSlot(std::span(bytes).subspan(at, kWitnessSlotBytes), number++, report);
    }
    had = size - at;
    std::memmove(bytes.data(), bytes.data() + at, had);
  }
  const absl::Status status = got < 0 ? WitnessError(path, "read") : absl::OkStatus();
  close(file);
  if (had > 0 || number < kIdentitySlots) ++report.damaged;
  if (report.damaged > 0) report.watched.clear();
  TANDEM_RETURN_IF_ERROR(status);
  return report;
}

absl::StatusOr<std::unique_ptr<ConversationWitness>> ConversationWitness::Make(
    const std::string& path, std::span<const std::byte> identity,
    std::span<const WitnessSlot> slots) {
  uint64_t next = 0;
  {
    TANDEM_ASSIGN_OR_RETURN(const auto file, kv_store::WholeFile::Create(path));
    std::vector<std::byte> bytes;
    const auto add = [&bytes](const Slot& slot) {
      bytes.insert(bytes.end(), slot.begin(), slot.end());
    };
    const std::vector<std::byte> fields = IdentityFields(identity);
    for (; next < kIdentitySlots; ++next) add(WithSum(fields, next));
    for (const WitnessSlot& slot : slots) add(EncodeWitnessSlot(slot, next++));
    TANDEM_RETURN_IF_ERROR(file->Write(bytes));
    TANDEM_RETURN_IF_ERROR(file->Finish());
  }
  TANDEM_ASSIGN_OR_RETURN(const int file, kv_store::OpenOwnFile(path, O_WRONLY | O_APPEND));
  return std::unique_ptr<ConversationWitness>(new ConversationWitness(path, file, next));
}

ConversationWitness::~ConversationWitness() { close(file_); }

absl::Status ConversationWitness::Append(std::span<const WitnessSlot> slots) {
  std::vector<std::byte> bytes;
  uint64_t number = next_;
  for (const WitnessSlot& slot : slots) {
    const Slot one = EncodeWitnessSlot(slot, number++);
    bytes.insert(bytes.end(), one.begin(), one.end());
  }
  for (size_t at = 0; at < bytes.size();) {
    const ssize_t written = write(file_, bytes.data() + at, bytes.size() - at);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return WitnessError(path_, "written");
    at += static_cast<size_t>(written);
  }
  next_ = number;
  return absl::OkStatus();
}

absl::Status ConversationWitness::CheckInPlace() const {
  const auto there = kv_store::FactsAt(path_);
  if (absl::IsNotFound(there.status())) return absl::DataLossError(path_ + " is gone");
  TANDEM_RETURN_IF_ERROR(there.status());
  TANDEM_ASSIGN_OR_RETURN(const kv_store::FileFacts open, kv_store::FactsOfOpen(file_, path_));
  if (!open.IsSameFile(*there)) return absl::DataLossError(path_ + " was replaced");
  const bool whole = open.bytes == static_cast<int64_t>(next_ * kWitnessSlotBytes);
  return whole ? absl::OkStatus() : absl::DataLossError(path_ + " was written to");
}

absl::Status ConversationWitness::Sync() {
  return fdatasync(file_) == 0 ? absl::OkStatus() : WitnessError(path_, "synced");
}

}  // namespace tandem::frontend
