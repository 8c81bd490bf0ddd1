#include "kv_store/agent_link/copy_keeper.h"

#include <sodium.h>

#include <iterator>
#include <utility>

#include "kv_store/agent_link/agent_answers.h"
#include "kv_store/base/parts.h"

namespace tandem::kv_store {
namespace {

using std::chrono::milliseconds;

// A little more than the agent gives other hosts (CopyRequestsOptions).
constexpr milliseconds kFindPatience{4000};
constexpr milliseconds kAppendPatience{2000};
constexpr milliseconds kPartPatience{12'000};
constexpr milliseconds kErasePatience{30'000};
constexpr size_t kMostPages = size_t{1} << 20;

}  // namespace

absl::StatusOr<AgentCopies> CopyKeeper::Find(bool patient) const {
  return Expect<AgentCopies>(
      ask_(AgentCopyFind{.state = state_, .patient = patient}, kFindPatience));
}

absl::StatusOr<JournalPosition> CopyKeeper::Append(const std::string& host,
                                                   std::vector<JournalEntry> entries) const {
  TANDEM_ASSIGN_OR_RETURN(
      const AgentCopyAt at,
      Expect<AgentCopyAt>(
          ask_(AgentCopyAppend{.to = host, .state = state_, .entries = std::move(entries)},
               kAppendPatience)));
  return at.position;
}

absl::Status CopyKeeper::Give(const std::string& host, JournalPart part) const {
  return ExpectStatus(
      ask_(AgentCopyPart{.to = host, .state = state_, .part = std::move(part)}, kPartPatience));
}

absl::StatusOr<JournalPage> CopyKeeper::ReadAll(const std::string& host) const {
  JournalPage all;
  for (size_t i = 0; i < kMostPages; ++i) {
    const std::string behind = all.records.empty() ? "" : all.records.back().place;
    TANDEM_ASSIGN_OR_RETURN(
        AgentCopyPage answer,
        Expect<AgentCopyPage>(
            ask_(AgentCopyRead{.to = host, .state = state_, .behind = behind}, kPartPatience)));
    JournalPage& page = answer.page;
    if (i == 0) all.at = page.at;
    if (page.at != all.at) {
      return absl::AbortedError(
          fmt::format("the copy on host {} was written to while it was read", host));
    }
    std::move(page.records.begin(), page.records.end(), std::back_inserter(all.records));
    if (!page.more) return all;
    if (page.records.empty()) break;
  }
  return Internal("KV agent of host {}: it does not come to the end of a copy", host);
}

absl::Status CopyKeeper::Erase(const JournalPosition& at,
                               std::span<const PlaceRange> ranges) const {
  for (const auto part : PartsOf(ranges, kMostCopyItems)) {
    TANDEM_RETURN_IF_ERROR(ExpectStatus(
        ask_(AgentCopyErase{.state = state_, .at = at, .ranges = {part.begin(), part.end()}},
             kErasePatience)));
  }
  return absl::OkStatus();
}

absl::Status CopyKeeper::FenceOff(const std::string& host, const JournalPosition& at,
                                  bool overwrite) const {
  JournalPart part;
  randombytes_buf(&part.session, sizeof(part.session));
  part.last = true;
  part.overwrite = overwrite;
  part.at = at;
  part.records.push_back({std::string(kPositionPlace), EncodePosition(at)});
  return Give(host, std::move(part));
}

absl::Status CopyKeeper::Fence(const JournalPosition& at) const {
  return ExpectStatus(ask_(AgentCopyFence{.state = state_, .at = at}, kPartPatience));
}

}  // namespace tandem::kv_store
