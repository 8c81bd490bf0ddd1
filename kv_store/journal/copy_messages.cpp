#include "kv_store/journal/copy_messages.h"

#include <algorithm>
#include <cstring>

namespace tandem::kv_store {
namespace {

using core::WireReader;
using core::WireWriter;

constexpr size_t kLongestHost = 255;
constexpr size_t kLongestPlace = 256;
constexpr size_t kMostCopies = 4096;
constexpr size_t kMostBytes = size_t{512} << 20;
constexpr size_t kPositionBytes = sizeof(uint64_t) + sizeof(uint32_t);
constexpr size_t kTextBytes = sizeof(uint32_t);  // at least

void WriteState(const StateId& state, WireWriter& writer) {
  writer.Raw(std::as_bytes(std::span(state)));
}
StateId ReadState(WireReader& reader) {
  StateId state{};
  const std::vector<std::byte> raw = reader.Raw(state.size());
  if (raw.size() == state.size()) std::memcpy(state.data(), raw.data(), raw.size());
  return state;
}

std::string ReadHost(WireReader& reader) { return reader.Text(kLongestHost, "bytes of a host"); }
std::string ReadPlace(WireReader& reader) { return reader.Text(kLongestPlace, "bytes of a place"); }

void WriteRecords(const std::vector<PlacedRecord>& records, WireWriter& writer) {
  writer.Count(records.size());
  for (const PlacedRecord& record : records) {
    writer.Text(record.place);
    writer.Text(record.bytes);
  }
}
std::vector<PlacedRecord> ReadRecords(WireReader& reader) {
  std::vector<PlacedRecord> records(reader.Count(kMostCopyItems, 2 * kTextBytes, "records"));
  for (PlacedRecord& record : records) {
    record.place = ReadPlace(reader);
    record.bytes = reader.Text(kMostBytes, "bytes of a record");
  }
  return records;
}

}  // namespace

void Write(const AgentCopyFind& message, WireWriter& writer) {
  WriteState(message.state, writer);
  writer.Bool(message.patient);
}
void Read(AgentCopyFind& message, WireReader& reader) {
  message.state = ReadState(reader);
  message.patient = reader.Bool();
}

void Write(const AgentCopyAppend& message, WireWriter& writer) {
  writer.Text(message.to);
  WriteState(message.state, writer);
  writer.Count(message.entries.size());
  for (const JournalEntry& entry : message.entries) WriteEntry(entry, writer);
}
void Read(AgentCopyAppend& message, WireReader& reader) {
  message.to = ReadHost(reader);
  message.state = ReadState(reader);
  message.entries.resize(reader.Count(kMostCopyItems, kPositionBytes, "changes"));
  for (JournalEntry& entry : message.entries) {
    entry = ReadEntry(reader);
    if (!reader.ok()) return;
  }
}

void Write(const AgentCopyPart& message, WireWriter& writer) {
  writer.Text(message.to);
  WriteState(message.state, writer);
  writer.Number(message.part.session);
  writer.Number(message.part.number);
  writer.Bool(message.part.last);
  writer.Bool(message.part.overwrite);
  WritePosition(message.part.at, writer);
  WriteRecords(message.part.records, writer);
}
void Read(AgentCopyPart& message, WireReader& reader) {
  message.to = ReadHost(reader);
  message.state = ReadState(reader);
  message.part.session = reader.Number<uint64_t>();
  message.part.number = reader.Number<uint32_t>();
  message.part.last = reader.Bool();
  message.part.overwrite = reader.Bool();
  message.part.at = ReadPosition(reader);
  message.part.records = ReadRecords(reader);
}

void Write(const AgentCopyRead& message, WireWriter& writer) {
  writer.Text(message.to);
  WriteState(message.state, writer);
  writer.Text(message.behind);
}
void Read(AgentCopyRead& message, WireReader& reader) {
  message.to = ReadHost(reader);
  message.state = ReadState(reader);
  message.behind = ReadPlace(reader);
}

void Write(const AgentCopyPurge& message, WireWriter& writer) {
  WriteState(message.state, writer);
  WritePosition(message.at, writer);
  writer.Count(message.ranges.size());
  for (const auto& [from, to] : message.ranges) {
    writer.Text(from);
    writer.Text(to);
  }
}
void Read(AgentCopyPurge& message, WireReader& reader) {
  message.state = ReadState(reader);
  message.at = ReadPosition(reader);
  message.ranges.resize(reader.Count(kMostCopyItems, 2 * kTextBytes, "ranges"));
  for (auto& [from, to] : message.ranges) {
    from = ReadPlace(reader);
    to = ReadPlace(reader);
    if (reader.ok() && to < from) reader.Fail(InvalidArgument("KV agent: a range ends early"));
  }
}

void Write(const AgentCopyFence& message, WireWriter& writer) {
  WriteState(message.state, writer);
  WritePosition(message.at, writer);
}
void Read(AgentCopyFence& message, WireReader& reader) {
  message.state = ReadState(reader);
  message.at = ReadPosition(reader);
}

void Write(const AgentCopies& message, WireWriter& writer) {
  writer.Text(message.self);
  writer.Text(message.keeper);
  writer.Count(message.copies.size());
  for (const auto& [host, copy] : message.copies) {
    writer.Text(host);
    WriteState(copy.state, writer);
    writer.Number(static_cast<uint8_t>(copy.condition));
    writer.Bool(copy.position.has_value());
    if (copy.position) WritePosition(*copy.position, writer);
    writer.Bool(copy.attended);
  }
  writer.Count(message.silent.size());
  for (const std::string& host : message.silent) writer.Text(host);
}
void Read(AgentCopies& message, WireReader& reader) {
  constexpr size_t kCopyBytes = kTextBytes + sizeof(StateId) + 3;
  message.self = ReadHost(reader);
  message.keeper = ReadHost(reader);
  message.copies.resize(reader.Count(kMostCopies, kCopyBytes, "copies"));
  for (auto& [host, copy] : message.copies) {
    host = ReadHost(reader);
    copy.state = ReadState(reader);
    const auto condition = reader.Number<uint8_t>();
    copy.condition = static_cast<JournalCopy::Condition>(condition);
    if (reader.Bool()) copy.position = ReadPosition(reader);
    copy.attended = reader.Bool();
    const bool damaged = copy.condition == JournalCopy::Condition::kDamaged;
    if (reader.ok() && (condition > static_cast<uint8_t>(JournalCopy::Condition::kDamaged) ||
                        damaged == copy.position.has_value())) {
      reader.Fail(InvalidArgument("KV agent: {} is no condition of a copy", condition));
    }
  }
  message.silent.resize(reader.Count(kMostCopies, kTextBytes, "hosts"));
  for (std::string& host : message.silent) host = ReadHost(reader);
}

void Write(const AgentCopyAt& message, WireWriter& writer) {
  WritePosition(message.position, writer);
}
void Read(AgentCopyAt& message, WireReader& reader) { message.position = ReadPosition(reader); }

void Write(const AgentCopyPage& message, WireWriter& writer) {
  WritePosition(message.page.at, writer);
  writer.Bool(message.page.more);
  WriteRecords(message.page.records, writer);
}
void Read(AgentCopyPage& message, WireReader& reader) {
  message.page.at = ReadPosition(reader);
  message.page.more = reader.Bool();
  message.page.records = ReadRecords(reader);
}

}  // namespace tandem::kv_store
