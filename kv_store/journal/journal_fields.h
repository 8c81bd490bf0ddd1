#pragma once

#include "core/base/wire.h"
#include "kv_store/journal/copy_messages.h"

/// The fields of what agents tell each other of copies.
namespace tandem::kv_store {

inline auto HostField(std::string& host) { return core::AtMost(host, 255, "bytes of a host"); }
template <typename List>
auto CopyItems(List& items, std::string_view of) {
  return core::AtMost(items, kMostCopyItems, of);
}

template <typename Archive>
void Fields(Archive& archive, PlacedRecord& record) {
  archive(PlaceField(record.place), BytesField(record.bytes));
}

template <typename Archive>
void Fields(Archive& archive, JournalPart& part) {
  archive(part.session, part.number, part.last, part.overwrite, part.at,
          CopyItems(part.records, "records"));
}

template <typename Archive>
void Fields(Archive& archive, JournalPage& page) {
  archive(page.at, page.more, CopyItems(page.records, "records"));
}

template <typename Archive>
void Fields(Archive& archive, JournalCopy& copy) {
  using Condition = JournalCopy::Condition;
  archive(copy.state, core::UpTo(copy.condition, Condition::kDamaged, "condition of a copy"),
          copy.position, copy.attended);
  archive.Require((copy.condition == Condition::kDamaged) != copy.position.has_value(),
                  "{} is no condition of a copy", static_cast<int>(copy.condition));
}

template <typename Archive>
void Fields(Archive& archive, AgentCopyFind& message) {
  archive(message.state, message.patient);
}
template <typename Archive>
void Fields(Archive& archive, AgentCopyAppend& message) {
  archive(HostField(message.to), message.state, CopyItems(message.entries, "changes"));
}
template <typename Archive>
void Fields(Archive& archive, AgentCopyPart& message) {
  archive(HostField(message.to), message.state, message.part);
}
template <typename Archive>
void Fields(Archive& archive, AgentCopyRead& message) {
  archive(HostField(message.to), message.state, PlaceField(message.behind));
}
template <typename Archive>
void Fields(Archive& archive, AgentCopyErase& message) {
  archive(message.state, message.at,
          core::AtMost(message.ranges, kMostCopyItems, "ranges", [](auto& each, PlaceRange& range) {
            each(PlaceField(range.first), PlaceField(range.second));
            each.Require(range.first <= range.second, "a range ends early");
          }));
}
template <typename Archive>
void Fields(Archive& archive, AgentCopyFence& message) {
  archive(message.state, message.at);
}
template <typename Archive>
void Fields(Archive& archive, AgentCopyOn& on) {
  archive(HostField(on.host), on.copy);
}
template <typename Archive>
void Fields(Archive& archive, AgentCopies& message) {
  constexpr size_t kMostCopies = 4096;
  archive(HostField(message.self), HostField(message.keeper),
          core::AtMost(message.copies, kMostCopies, "copies"),
          core::AtMost(message.silent, kMostCopies, "hosts",
                       [](auto& each, std::string& host) { each(HostField(host)); }));
}
template <typename Archive>
void Fields(Archive& archive, AgentCopyAt& message) {
  archive(message.position);
}
template <typename Archive>
void Fields(Archive& archive, AgentCopyPage& message) {
  archive(message.page);
}

}  // namespace tandem::kv_store
