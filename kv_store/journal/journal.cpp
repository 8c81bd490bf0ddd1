#include "kv_store/journal/journal.h"

#include <rocksdb/write_batch.h>
#include <sodium.h>

#include <algorithm>
#include <set>

#include "kv_store/base/blake2b.h"
#include "kv_store/base/hex.h"

namespace tandem::kv_store {
namespace {

constexpr uint8_t kVersion = 1;
constexpr size_t kBranchBytes = 2 * sizeof(uint64_t);
constexpr size_t kChangeBytes = 1 + 2 * sizeof(uint32_t);  // at least

uint64_t DrawNumber() {
  uint64_t number = 0;
  randombytes_buf(&number, sizeof(number));
  return number;
}

}  // namespace

std::string StateIdText(const StateId& id) { return Hex(id); }

std::optional<StateId> ParseStateId(std::string_view text) {
  const auto id = UnhexArray<std::tuple_size_v<StateId>>(text);
  return id && Hex(*id) == text ? id : std::nullopt;
}

bool JournalPosition::Contains(const JournalPosition& other) const {
  const auto branch = std::find_if(branches.begin(), branches.end(), [&](const JournalBranch& one) {
    return !other.branches.empty() && one.id == other.branches.back().id;
  });
  if (branch == branches.end()) return false;
  return other.sequence <= (branch + 1 == branches.end() ? sequence : (branch + 1)->begun);
}

JournalPosition JournalPosition::Next() const {
  return {.branches = branches, .sequence = sequence + 1};
}

JournalPosition JournalPosition::Branched() const {
  JournalPosition next = Next();
  next.branches.push_back({.id = DrawNumber(), .begun = sequence});
  if (next.branches.size() > kMostJournalBranches) next.branches.erase(next.branches.begin());
  return next;
}

bool IsPossible(const JournalPosition& position) {
  uint64_t before = 0;
  std::set<uint64_t> ids;
  for (const JournalBranch& branch : position.branches) {
    if (branch.begun < before || branch.begun > position.sequence) return false;
    if (!ids.insert(branch.id).second) return false;
    before = branch.begun;
  }
  return !position.branches.empty();
}

bool IsPossible(const JournalChange& change) {
  if (change.place == kPositionPlace) return false;
  if (change.kind != JournalChange::Kind::kDeleteRange) return true;
  const bool over_position = change.place <= kPositionPlace && change.bytes > kPositionPlace;
  return !over_position && change.place <= change.bytes;
}

JournalPosition NewJournal() {
  return {.branches = {{.id = DrawNumber(), .begun = 0}}, .sequence = 0};
}

Checksum ChecksumOf(std::span<const std::byte> bytes) { return Blake2b<Checksum>(bytes); }

std::string EncodePosition(const JournalPosition& position) {
  core::WireWriter writer;
  writer(kVersion, position);
  writer.Raw(ChecksumOf(writer.bytes()));
  const std::vector<std::byte> bytes = writer.Take();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

absl::StatusOr<JournalPosition> DecodePosition(std::string_view record) {
  const auto bytes = std::as_bytes(std::span(record));
  const auto damaged = absl::DataLossError("the record that says how far it is, is damaged");
  if (bytes.size() <= sizeof(Checksum)) return damaged;
  const auto fields = bytes.first(bytes.size() - sizeof(Checksum));
  core::WireReader reader("position of a journal", fields);
  uint8_t version = 0;
  reader(version);
  if (version > kVersion) {
    return FailedPrecondition(
        "its journal has version {}, and this program reads versions up to {}: start a newer "
        "tandem",
        version, kVersion);
  }
  const auto sum = ChecksumOf(fields);
  JournalPosition position;
  reader(position);
  if (!reader.Finish().ok() || version == 0 ||
      !std::equal(sum.begin(), sum.end(), bytes.end() - sizeof(Checksum))) {
    return damaged;
  }
  return position;
}

size_t JournalEntry::bytes() const {
  size_t sum = kBranchBytes * (at.branches.size() + 1);
  for (const JournalChange& change : changes) {
    sum += kChangeBytes + change.place.size() + change.bytes.size();
  }
  return sum;
}

void AddTo(rocksdb::WriteBatch& batch, const JournalEntry& entry) {
  for (const JournalChange& change : entry.changes) {
    switch (change.kind) {
      case JournalChange::Kind::kPut:
        batch.Put(change.place, change.bytes);
        break;
      case JournalChange::Kind::kDelete:
        batch.Delete(change.place);
        break;
      case JournalChange::Kind::kDeleteRange:
        batch.DeleteRange(change.place, change.bytes);
        break;
    }
  }
  batch.Put(rocksdb::Slice(kPositionPlace), EncodePosition(entry.at));
}

}  // namespace tandem::kv_store
