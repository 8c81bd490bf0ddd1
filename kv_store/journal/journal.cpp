#include "kv_store/journal/journal.h"

#include <rocksdb/write_batch.h>
#include <sodium.h>

#include <algorithm>
#include <set>

namespace tandem::kv_store {
namespace {

using core::WireReader;
using core::WireWriter;

constexpr uint8_t kVersion = 1;
constexpr size_t kChecksumBytes = crypto_generichash_BYTES_MIN;
constexpr size_t kBranchBytes = 2 * sizeof(uint64_t);
constexpr size_t kLongestPlace = 256;
constexpr size_t kMostChanges = size_t{1} << 20;
constexpr size_t kMostBytes = size_t{512} << 20;
constexpr size_t kChangeBytes = 1 + 2 * sizeof(uint32_t);  // at least

std::array<std::byte, kChecksumBytes> ChecksumOf(std::span<const std::byte> bytes) {
  std::array<std::byte, kChecksumBytes> sum{};
  crypto_generichash(reinterpret_cast<unsigned char*>(sum.data()), sum.size(),
                     reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), nullptr,
                     0);
  return sum;
}

uint64_t DrawNumber() {
  uint64_t number = 0;
  randombytes_buf(&number, sizeof(number));
  return number;
}

}  // namespace

std::string StateIdText(const StateId& id) {
  std::string text;
  for (const uint8_t byte : id) text += fmt::format("{:02x}", byte);
  return text;
}

std::optional<StateId> ParseStateId(std::string_view text) {
  StateId id{};
  if (text.size() != 2 * id.size()) return std::nullopt;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) return std::nullopt;
    id[i / 2] = static_cast<uint8_t>(id[i / 2] << 4 | digit);
  }
  return id;
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

JournalPosition NewJournal() {
  return {.branches = {{.id = DrawNumber(), .begun = 0}}, .sequence = 0};
}

void WritePosition(const JournalPosition& position, WireWriter& writer) {
  writer.Number(position.sequence);
  writer.Count(position.branches.size());
  for (const JournalBranch& branch : position.branches) {
    writer.Number(branch.id);
    writer.Number(branch.begun);
  }
}

JournalPosition ReadPosition(WireReader& reader) {
  JournalPosition position;
  position.sequence = reader.Number<uint64_t>();
  position.branches.resize(reader.Count(kMostJournalBranches, kBranchBytes, "branches"));
  uint64_t before = 0;
  bool possible = !position.branches.empty();
  std::set<uint64_t> ids;
  for (JournalBranch& branch : position.branches) {
    branch.id = reader.Number<uint64_t>();
    branch.begun = reader.Number<uint64_t>();
    possible = possible && before <= branch.begun && branch.begun <= position.sequence &&
               ids.insert(branch.id).second;
    before = branch.begun;
  }
  if (reader.ok() && !possible) {
    reader.Fail(InvalidArgument("a journal's position has branches that cannot be"));
  }
  return position;
}

std::string EncodePosition(const JournalPosition& position) {
  WireWriter writer;
  writer.Number(kVersion);
  WritePosition(position, writer);
  writer.Raw(ChecksumOf(writer.bytes()));
  const std::vector<std::byte> bytes = writer.Take();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

absl::StatusOr<JournalPosition> DecodePosition(std::string_view record) {
  const auto bytes = std::as_bytes(std::span(record));
  const auto damaged = absl::DataLossError("the record that says how far it is, is damaged");
  if (bytes.size() <= kChecksumBytes) return damaged;
  const auto fields = bytes.first(bytes.size() - kChecksumBytes);
  WireReader reader("position of a journal", fields);
  const auto version = reader.Number<uint8_t>();
  if (version > kVersion) {
    return FailedPrecondition(
        "its journal has version {}, and this program reads versions up to {}: start a newer "
        "tandem",
        version, kVersion);
  }
  const auto sum = ChecksumOf(fields);
  JournalPosition position = ReadPosition(reader);
  if (!reader.Finish().ok() || version == 0 ||
      !std::equal(sum.begin(), sum.end(), bytes.end() - kChecksumBytes)) {
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

void WriteEntry(const JournalEntry& entry, WireWriter& writer) {
  WritePosition(entry.at, writer);
  writer.Count(entry.changes.size());
  for (const JournalChange& change : entry.changes) {
    writer.Number(static_cast<uint8_t>(change.kind));
    writer.Text(change.place);
    writer.Text(change.bytes);
  }
}

JournalEntry ReadEntry(WireReader& reader) {
  JournalEntry entry;
  entry.at = ReadPosition(reader);
  entry.changes.resize(reader.Count(kMostChanges, kChangeBytes, "changes"));
  for (JournalChange& change : entry.changes) {
    const auto kind = reader.Number<uint8_t>();
    change.place = reader.Text(kLongestPlace, "bytes of a place");
    change.bytes = reader.Text(kMostBytes, "bytes of a change");
    change.kind = static_cast<JournalChange::Kind>(kind);
    // What says how far the copy is comes with the entry; a range must not reach that.
    const bool over_position = change.place == kPositionPlace ||
                               (change.kind == JournalChange::Kind::kDeleteRange &&
                                change.place <= kPositionPlace && change.bytes > kPositionPlace);
    if (reader.ok() &&
        (kind > static_cast<uint8_t>(JournalChange::Kind::kDeleteRange) || over_position ||
         (change.kind == JournalChange::Kind::kDeleteRange && change.bytes < change.place))) {
      reader.Fail(InvalidArgument("a journal has a change of kind {} that cannot be", kind));
    }
  }
  return entry;
}

}  // namespace tandem::kv_store
