#pragma once

#include <string>
#include <vector>

#include "kv_store/journal/journal.h"
#include "kv_store/journal/journal_copies.h"

/// What agents are asked of the copies of conversations, and answer: a part of AgentMessage.
///
/// `to`: the host whose agent is meant. This host's agent passes on what is meant for another's;
/// peers ask for themselves and leave it empty.
namespace tandem::kv_store {

/// Records, entries or ranges of a message.
inline constexpr size_t kMostCopyItems = size_t{1} << 16;

struct AgentCopyFind {
  StateId state{};       // whose keeper is asked for, too
  bool patient = false;  // wait a while for hosts that do not answer yet
};
struct AgentCopyAppend {
  std::string to;
  StateId state{};
  std::vector<JournalEntry> entries;
};
struct AgentCopyPart {
  std::string to;
  StateId state{};
  JournalPart part;
};
struct AgentCopyRead {
  std::string to;
  StateId state{};
  std::string behind;
};
struct AgentCopyErase {  // on all hosts
  StateId state{};
  JournalPosition at;
  std::vector<PlaceRange> ranges;
};
struct AgentCopyFence {  // on this host
  StateId state{};
  JournalPosition at;
};

struct AgentCopyOn {
  std::string host;
  JournalCopy copy;
};
struct AgentCopies {   // to Find
  std::string self;    // this host
  std::string keeper;  // who is to keep the copy: a host of the job that answers; empty: none
  std::vector<AgentCopyOn> copies;
  std::vector<std::string> silent;  // hosts that did not answer
};
struct AgentCopyAt {  // to Append
  JournalPosition position;
};
struct AgentCopyPage {  // to Read
  JournalPage page;
};

}  // namespace tandem::kv_store
