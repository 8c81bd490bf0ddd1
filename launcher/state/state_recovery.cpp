#include "launcher/state/state_recovery.h"

#include <fmt/ranges.h>
#include <rocksdb/db.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/counted.h"
#include "kv_store/base/files.h"
#include "kv_store/journal/conversation_database.h"

namespace tandem::launcher {
namespace {

using kv_store::AgentCopies;
using kv_store::AgentCopyOn;
using kv_store::CopyKeeper;
using kv_store::JournalCopy;
using kv_store::JournalPosition;
using kv_store::StateId;
using kv_store::StateIdText;

// A server that is gone is heard of for so long at most (JournalCopies::Options::attention).
constexpr auto kSilence = std::chrono::seconds(8);
constexpr auto kLookInterval = std::chrono::milliseconds(200);
constexpr int kReads = 5;

std::string Described(const AgentCopyOn& on) {
  const std::string what = fmt::format("{} on host {}", StateIdText(on.copy.state), on.host);
  switch (on.copy.condition) {
    case JournalCopy::Condition::kDamaged:
      return what + " (damaged)";
    case JournalCopy::Condition::kFence:
      return what + fmt::format(" (went on from change {})", on.copy.position->sequence);
    case JournalCopy::Condition::kWhole:
      break;
  }
  return what +
         fmt::format(" ({})", Counted(static_cast<int64_t>(on.copy.position->sequence), "change"));
}

std::string Listed(const std::vector<AgentCopyOn>& copies) {
  std::string text;
  for (const AgentCopyOn& on : copies) text += (text.empty() ? "" : "; ") + Described(on);
  return text;
}

bool IsWhole(const AgentCopyOn& on) { return on.copy.condition == JournalCopy::Condition::kWhole; }

/// The copy that is to be gone on with; nothing if there is none at all.
absl::StatusOr<std::optional<AgentCopyOn>> Choose(const std::vector<AgentCopyOn>& all,
                                                  const RecoverChoice& choice) {
  std::vector<AgentCopyOn> wanted;
  std::set<StateId> states;
  for (const AgentCopyOn& on : all) {
    if (choice.state && on.copy.state != *choice.state) continue;
    wanted.push_back(on);
    if (on.copy.condition != JournalCopy::Condition::kFence) states.insert(on.copy.state);
  }
  if (choice.state && !choice.host.empty()) {
    for (const AgentCopyOn& on : wanted) {
      if (on.host == choice.host && IsWhole(on)) return on;
    }
  }
  if (choice.state && (!choice.host.empty() || states.empty())) {
    return FailedPrecondition("--recover {}{}{}: there is no such copy; there are: {}",
                              StateIdText(*choice.state), choice.host.empty() ? "" : "@",
                              choice.host, all.empty() ? "none" : Listed(all));
  }
  if (states.empty() && wanted.empty()) return std::nullopt;
  if (states.empty()) {
    return FailedPrecondition(
        "servers of these hosts had conversations that went on elsewhere, and no host answers that "
        "has them: {}; start the host that has them, or begin anew with --recover own",
        Listed(wanted));
  }
  if (states.size() > 1) {
    return FailedPrecondition(
        "hosts keep copies of several servers' conversations: {}; choose with --recover ID, or "
        "begin anew with --recover own",
        Listed(wanted));
  }
  std::erase_if(wanted, [&](const AgentCopyOn& on) { return on.copy.state != *states.begin(); });
  for (const AgentCopyOn& on : wanted) {
    const bool has_all = std::all_of(wanted.begin(), wanted.end(), [&](const AgentCopyOn& other) {
      return !other.copy.position ||
             (on.copy.position && on.copy.position->Contains(*other.copy.position));
    });
    if (IsWhole(on) && has_all) return on;
  }
  return FailedPrecondition(
      "no copy of these conversations that can be read has all that others have: {}; serve where "
      "they went on, or choose with --recover ID@HOST",
      Listed(wanted));
}

/// The copy, once nobody writes to it any more.
absl::StatusOr<kv_store::JournalPage> ReadUnattended(const CopyKeeper& keeper,
                                                     const std::string& host) {
  const auto end = std::chrono::steady_clock::now() + kSilence;
  for (bool attended = true; attended;) {
    TANDEM_ASSIGN_OR_RETURN(const AgentCopies found, keeper.Find(/*patient=*/false));
    attended = std::any_of(found.copies.begin(), found.copies.end(), [&](const AgentCopyOn& on) {
      return on.host == host && on.copy.state == keeper.state() && on.copy.attended;
    });
    if (!attended) break;
    if (std::chrono::steady_clock::now() > end) {
      return FailedPrecondition(
          "the server of the conversations that host {} has a copy of is still there: end it "
          "first, or begin anew with --recover own",
          host);
    }
    std::this_thread::sleep_for(kLookInterval);
  }
  absl::StatusOr<kv_store::JournalPage> all = absl::AbortedError("not read yet");
  for (int i = 0; i < kReads && absl::IsAborted(all.status()); ++i) all = keeper.ReadAll(host);
  return all;
}

/// Makes the folder of these records, at once.
absl::Status Make(const std::string& folder, const std::vector<kv_store::PlacedRecord>& records) {
  const std::string part = folder + ".adopted";
  TANDEM_RETURN_IF_ERROR(kv_store::MakeWay(part, kv_store::FileKind::kFolder));
  TANDEM_RETURN_IF_ERROR(kv_store::Remove(part));
  {
    TANDEM_ASSIGN_OR_RETURN(const auto db, kv_store::OpenDatabase(part));
    TANDEM_RETURN_IF_ERROR(kv_store::WriteAll(*db, records));
  }
  TANDEM_RETURN_IF_ERROR(kv_store::Rename(part, folder));
  return kv_store::SyncFolder(kv_store::FolderOf(folder));
}

/// Whether a copy has more of the last branch that both were on: then these are files of an earlier
/// time, and not what somebody else went on from.
bool HasMore(const JournalPosition& copy, const JournalPosition& own) {
  const auto left_at = [](const JournalPosition& position, auto branch) {
    return branch + 1 == position.branches.end() ? position.sequence : (branch + 1)->begun;
  };
  for (auto ours = own.branches.end(); ours != own.branches.begin();) {
    --ours;
    const auto theirs = std::find_if(copy.branches.begin(), copy.branches.end(),
                                     [&](const auto& one) { return one.id == ours->id; });
    if (theirs != copy.branches.end()) return left_at(own, ours) < left_at(copy, theirs);
  }
  return false;
}

/// Those that have what is not here.
std::vector<AgentCopyOn> ThoseThatWentOn(const AgentCopies& found, const StateId& state,
                                         const JournalPosition& own) {
  std::vector<AgentCopyOn> went_on;
  for (const AgentCopyOn& on : found.copies) {
    if (on.copy.state == state && on.copy.position && !own.Contains(*on.copy.position)) {
      went_on.push_back(on);
    }
  }
  return went_on;
}

}  // namespace

absl::StatusOr<RecoverChoice> ParseRecoverChoice(const std::string& text) {
  RecoverChoice choice;
  if (text.empty()) return choice;
  if (text == "own") {
    choice.own = true;
    return choice;
  }
  const size_t at = text.find('@');
  choice.state = kv_store::ParseStateId(text.substr(0, at));
  if (at != std::string::npos) choice.host = text.substr(at + 1);
  if (!choice.state || (at != std::string::npos && choice.host.empty())) {
    return InvalidArgument(
        "--recover {}: expected own, or an ID of 32 hexadecimal digits, or ID@HOST", text);
  }
  return choice;
}

absl::StatusOr<bool> AdoptCopy(const CopyKeeper::Ask& ask, const RecoverChoice& choice,
                               const std::string& folder) {
  if (choice.own) return false;
  TANDEM_ASSIGN_OR_RETURN(const AgentCopies found, CopyKeeper({}, ask).Find(/*patient=*/true));
  TANDEM_ASSIGN_OR_RETURN(const std::optional<AgentCopyOn> chosen, Choose(found.copies, choice));
  if (!chosen) return false;
  if (!found.silent.empty()) {
    spdlog::warn("hosts that do not answer may have a copy of conversations that is newer: {}",
                 fmt::join(found.silent, ", "));
  }
  const CopyKeeper keeper(chosen->copy.state, ask);
  TANDEM_ASSIGN_OR_RETURN(kv_store::JournalPage all, ReadUnattended(keeper, chosen->host));
  const JournalPosition position = all.at.Branched();
  for (kv_store::PlacedRecord& record : all.records) {
    if (record.place == kv_store::kPositionPlace) record.bytes = EncodePosition(position);
  }
  TANDEM_RETURN_IF_ERROR(Make(folder, all.records));
  spdlog::info("state {}: conversations {} go on from the copy on host {}, {} in {}",
               kv_store::FolderOf(folder), StateIdText(keeper.state()), chosen->host,
               Counted(static_cast<int64_t>(all.at.sequence), "change"),
               Counted(static_cast<int64_t>(all.records.size()), "record"));
  return true;
}

absl::Status TakeFromCopies(const CopyKeeper& keeper, frontend::ConversationStore& store,
                            frontend::FoundConversations& found) {
  if (!store.damaged()) return absl::OkStatus();
  TANDEM_ASSIGN_OR_RETURN(const AgentCopies copies, keeper.Find(/*patient=*/true));
  const JournalPosition own = store.position();
  const AgentCopyOn* best = nullptr;
  std::pair<size_t, uint64_t> latest;
  for (const AgentCopyOn& on : copies.copies) {
    if (on.copy.state != keeper.state() || !IsWhole(on)) continue;
    const uint64_t branch = on.copy.position->branches.back().id;
    const std::optional<size_t> watched = store.Watched(*on.copy.position);
    const bool ours = store.journal_lost() || (watched && HasMore(*on.copy.position, own)) ||
                      std::any_of(own.branches.begin(), own.branches.end(),
                                  [&](const auto& one) { return one.id == branch; });
    if (!ours) continue;
    const std::pair now{watched ? *watched + 1 : 0, on.copy.position->sequence};
    if (best != nullptr && now <= latest) continue;
    best = &on;
    latest = now;
  }
  if (best == nullptr) return absl::OkStatus();
  const auto all = ReadUnattended(keeper, best->host);
  if (!all.ok()) {
    spdlog::warn("the copy on host {}: {}", best->host, Message(all.status()));
    return absl::OkStatus();
  }
  return store.TakeFromCopy(all->records, all->at, found);
}

absl::StatusOr<bool> ChoseAnother(const CopyKeeper& keeper, const RecoverChoice& choice,
                                  const JournalPosition& own) {
  if (!choice.state) return false;
  if (*choice.state != keeper.state()) return true;
  TANDEM_ASSIGN_OR_RETURN(const AgentCopies found, keeper.Find(/*patient=*/true));
  const auto went_on = ThoseThatWentOn(found, keeper.state(), own);
  return std::any_of(went_on.begin(), went_on.end(), [&](const AgentCopyOn& on) {
    return IsWhole(on) && (choice.host.empty() || choice.host == on.host);
  });
}

absl::Status CheckNobodyWentOn(const CopyKeeper& keeper, bool overrule,
                               frontend::ConversationStore& store) {
  TANDEM_ASSIGN_OR_RETURN(const AgentCopies found, keeper.Find(/*patient=*/true));
  const JournalPosition own = store.position();
  std::vector<AgentCopyOn> went_on = ThoseThatWentOn(found, keeper.state(), own);
  // A note that was left on this host, before the files here were put back to an earlier time.
  const size_t notes = std::erase_if(went_on, [&](const AgentCopyOn& on) {
    return on.host == found.self && on.copy.condition == JournalCopy::Condition::kFence &&
           store.Watched(*on.copy.position);
  });
  if (!went_on.empty() && !overrule) {
    return FailedPrecondition(
        "other hosts have what these conversations (change {}) have not: {}; serve where they went "
        "on, or go on with a copy (--recover ID@HOST) or with what is here (--recover own): then "
        "the other is put aside and kept",
        own.sequence, Listed(went_on));
  }
  if (!went_on.empty()) {
    TANDEM_RETURN_IF_ERROR(store.BeginBranch());
    for (const AgentCopyOn& on : went_on) {
      TANDEM_RETURN_IF_ERROR(keeper.FenceOff(on.host, store.position(), /*overwrite=*/true));
    }
  }
  // So that whoever comes back with what was before knows.
  const JournalPosition position = store.position();
  if (notes > 0) return keeper.FenceOff(found.self, position, /*overwrite=*/true);
  return position.branches.size() > 1 ? keeper.Fence(position) : absl::OkStatus();
}

}  // namespace tandem::launcher
