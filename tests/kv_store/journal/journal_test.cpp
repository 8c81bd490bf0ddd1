#include "kv_store/journal/journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>

#include "kv_store/journal/journal_copies.h"
#include "kv_store/journal/journal_fields.h"
#include "tests/support/random.h"
#include "tests/support/temporary_directory.h"

namespace tandem::kv_store {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::TemporaryDirectory;
using Condition = JournalCopy::Condition;

JournalPosition Moved(JournalPosition position, int changes) {
  for (int i = 0; i < changes; ++i) position = position.Next();
  return position;
}

TEST(JournalPosition, KnowsWhatIsBehindItAndWhatIsElsewhere) {
  const JournalPosition start = NewJournal();
  const JournalPosition ten = Moved(start, 10);
  EXPECT_TRUE(ten.Contains(start));
  EXPECT_TRUE(ten.Contains(ten));
  EXPECT_FALSE(start.Contains(ten));
  EXPECT_FALSE(ten.Contains(NewJournal()));

  const JournalPosition other = Moved(ten.Branched(), 5);
  EXPECT_EQ(other.sequence, 16U);
  EXPECT_TRUE(other.Contains(ten));
  EXPECT_FALSE(ten.Contains(other));
  // The one that stayed behind goes on as if nothing had been.
  const JournalPosition stayed = Moved(ten, 3);
  EXPECT_FALSE(other.Contains(stayed));
  EXPECT_FALSE(stayed.Contains(other));
  // Two that go on from the same place are two.
  const JournalPosition twin = Moved(ten.Branched(), 5);
  EXPECT_FALSE(other.Contains(twin));
  EXPECT_FALSE(twin.Contains(other));
  EXPECT_TRUE(twin.Contains(ten));
  // Beyond two branches, too.
  const JournalPosition third = Moved(Moved(other, 1).Branched(), 100);
  EXPECT_TRUE(third.Contains(other));
  EXPECT_TRUE(third.Contains(ten));
  EXPECT_FALSE(third.Contains(stayed));
  EXPECT_FALSE(third.Contains(Moved(other, 2)));
}

TEST(JournalPosition, DropsTheOldestBranchesSafely) {
  const JournalPosition start = NewJournal();
  JournalPosition position = start;
  for (size_t i = 0; i < 2 * kMostJournalBranches; ++i) position = position.Branched();
  EXPECT_EQ(position.branches.size(), kMostJournalBranches);
  EXPECT_FALSE(position.Contains(start));  // so nobody overwrites what it might not have
  EXPECT_EQ(*DecodePosition(EncodePosition(position)), position);
}

TEST(JournalPosition, ADamagedRecordIsNone) {
  const std::string record = EncodePosition(Moved(NewJournal().Branched(), 3));
  for (size_t i = 0; i < record.size(); ++i) {
    std::string damaged = record;
    damaged[i] = static_cast<char>(damaged[i] ^ 1);
    EXPECT_FALSE(DecodePosition(damaged).ok()) << i;
    EXPECT_FALSE(DecodePosition(record.substr(0, i)).ok()) << i;
  }
  std::string newer = record;
  newer[0] = 2;
  EXPECT_TRUE(absl::IsFailedPrecondition(DecodePosition(newer).status()));
}

TEST(JournalPosition, BranchesThatCannotBeAreNone) {
  const JournalPosition twice = {.branches = {{1, 0}, {1, 2}}, .sequence = 3};
  const JournalPosition backwards = {.branches = {{1, 2}, {2, 1}}, .sequence = 3};
  const JournalPosition beyond = {.branches = {{1, 4}}, .sequence = 3};
  for (const JournalPosition& position : {twice, backwards, beyond, JournalPosition{}}) {
    EXPECT_FALSE(DecodePosition(EncodePosition(position)).ok());
  }
}

TEST(JournalEntry, MayNotReachThePosition) {
  const auto decoded = [](const JournalChange& change) {
    const JournalEntry entry{.at = NewJournal().Next(), .changes = {change}};
    const auto read = core::Decode<JournalEntry>("test", core::Encode(entry));
    return read.ok() && *read == entry;
  };
  using Kind = JournalChange::Kind;
  EXPECT_TRUE(decoded({.kind = Kind::kPut, .place = "C1", .bytes = "x"}));
  EXPECT_TRUE(decoded({.kind = Kind::kDeleteRange, .place = "C1", .bytes = "C2"}));
  EXPECT_FALSE(decoded({.kind = Kind::kPut, .place = "J", .bytes = "x"}));
  EXPECT_FALSE(decoded({.kind = Kind::kDelete, .place = "J", .bytes = ""}));
  EXPECT_FALSE(decoded({.kind = Kind::kDeleteRange, .place = "C", .bytes = "K"}));
  EXPECT_FALSE(decoded({.kind = Kind::kDeleteRange, .place = "C2", .bytes = "C1"}));
  EXPECT_FALSE(decoded({.kind = static_cast<Kind>(3), .place = "C1", .bytes = ""}));
}

/// A copy of a database that is a map here.
struct Source {
  JournalPosition at = NewJournal();
  std::map<std::string, std::string> records = {{"I", "identity"}};

  JournalEntry Put(const std::string& place, const std::string& bytes) {
    records[place] = bytes;
    at = at.Next();
    return {.at = at,
            .changes = {{.kind = JournalChange::Kind::kPut, .place = place, .bytes = bytes}}};
  }
  /// In parts of two records.
  std::vector<JournalPart> Whole(uint64_t session, bool overwrite = false) const {
    std::vector<JournalPart> parts(1);
    const auto add = [&](const std::string& place, const std::string& bytes) {
      if (parts.back().records.size() == 2) parts.emplace_back();
      parts.back().records.push_back({place, bytes});
    };
    for (const auto& [place, bytes] : records) add(place, bytes);
    add("J", EncodePosition(at));
    for (size_t i = 0; i < parts.size(); ++i) {
      parts[i].session = session;
      parts[i].number = static_cast<uint32_t>(i);
      parts[i].at = at;
      parts[i].overwrite = overwrite;
    }
    parts.back().last = true;
    return parts;
  }
};

struct Copies {
  Copies() { Open(); }
  void Open() {
    copies.reset();
    copies.emplace(JournalCopies::Options{.folder = folder(), .page_bytes = 10});
  }
  std::string folder() const { return temporary.path() + "/copies"; }
  std::string folder_of() const { return folder() + "/" + StateIdText(state); }
  absl::Status Give(const Source& source, uint64_t session = 1, bool overwrite = false) {
    for (const JournalPart& part : source.Whole(session, overwrite)) {
      TANDEM_RETURN_IF_ERROR(copies->Take(state, part));
    }
    return absl::OkStatus();
  }
  /// Everything but the position.
  std::map<std::string, std::string> Content() {
    std::map<std::string, std::string> content;
    std::string behind;
    for (bool more = true; more;) {
      const auto page = copies->Read(state, behind);
      EXPECT_TRUE(page.ok()) << page.status();
      if (!page.ok()) break;
      for (const PlacedRecord& record : page->records) {
        EXPECT_GT(record.place, behind);
        behind = record.place;
        if (behind != "J") content[behind] = record.bytes;
      }
      more = page->more;
    }
    return content;
  }
  JournalCopy Only() {
    const std::vector<JournalCopy> all = copies->List();
    EXPECT_EQ(all.size(), 1U);
    return all.empty() ? JournalCopy() : all.front();
  }
  int FilesWith(const std::string& text) const {
    int found = 0;
    for (const auto& entry : fs::recursive_directory_iterator(folder())) {
      if (!entry.is_regular_file()) continue;
      std::ifstream file(entry.path(), std::ios::binary);
      const std::string content{std::istreambuf_iterator<char>(file), {}};
      found += content.find(text) != std::string::npos ? 1 : 0;
    }
    return found;
  }

  TemporaryDirectory temporary;
  const StateId state{1, 2, 3};
  std::optional<JournalCopies> copies;
};

TEST(JournalCopies, FollowsChangesThatFollowAndNoOthers) {
  Copies there;
  Source source;
  EXPECT_THAT(there.copies->List(), IsEmpty());
  EXPECT_TRUE(absl::IsNotFound(there.copies->Append(there.state, {}).status()));
  ASSERT_EQ(there.Give(source), absl::OkStatus());
  EXPECT_EQ(there.Content(), source.records);

  std::vector<JournalEntry> entries;
  for (int i = 0; i < 10; ++i) entries.push_back(source.Put(fmt::format("C{}", i % 7), "text"));
  const auto append = [&](int begin, int end) {
    return there.copies->Append(
        there.state,
        std::span(entries).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)));
  };
  EXPECT_EQ(append(0, 4)->sequence, 4U);
  EXPECT_EQ(append(5, 10)->sequence, 4U);  // a gap
  EXPECT_EQ(append(2, 6)->sequence, 6U);   // what it has is left out
  there.Open();
  EXPECT_EQ(append(6, 10)->sequence, 10U);
  EXPECT_EQ(there.Content(), source.records);
  EXPECT_EQ(there.Only().position, source.at);
  EXPECT_TRUE(there.Only().attended);

  // Changes of a branch that began earlier do not follow.
  JournalEntry fork{.at = entries[8].at.Branched(), .changes = {}};
  fork.at = fork.at.Next();
  EXPECT_EQ(there.copies->Append(there.state, {&fork, 1})->sequence, 10U);
  // One that begins a branch here does.
  const JournalEntry branch{.at = source.at.Branched(), .changes = {}};
  EXPECT_EQ(*there.copies->Append(there.state, {&branch, 1}), branch.at);
  const JournalEntry late = source.Put("C1", "late");
  EXPECT_EQ(*there.copies->Append(there.state, {&late, 1}), branch.at);
}

TEST(JournalCopies, AWholeOneIsThereAtOnceOrNotAtAll) {
  Copies there;
  Source source;
  source.Put("C1", "a");
  ASSERT_EQ(there.Give(source), absl::OkStatus());
  const auto before = source.records;
  for (int i = 0; i < 9; ++i) source.Put(fmt::format("C{}", i), "b");
  const std::vector<JournalPart> parts = source.Whole(2);
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    ASSERT_EQ(there.copies->Take(there.state, parts[i]), absl::OkStatus());
    EXPECT_EQ(there.Content(), before);
  }
  there.Open();  // and what came is dropped
  EXPECT_EQ(there.Content(), before);
  EXPECT_TRUE(absl::IsFailedPrecondition(there.copies->Take(there.state, parts.back())));
  EXPECT_FALSE(fs::exists(there.folder_of() + ".new"));
  ASSERT_EQ(there.Give(source, 3), absl::OkStatus());
  EXPECT_EQ(there.Content(), source.records);

  // Parts of two sessions are not mixed, and none is left out.
  const std::vector<JournalPart> other = source.Whole(4);
  ASSERT_TRUE(there.copies->Take(there.state, other[0]).ok());
  EXPECT_FALSE(there.copies->Take(there.state, parts[1]).ok());
  EXPECT_FALSE(there.copies->Take(there.state, other[2]).ok());
  EXPECT_EQ(there.Content(), source.records);

  // A crash between the two renames.
  there.copies.reset();
  fs::rename(there.folder_of(), there.folder_of() + ".old");
  there.Open();
  EXPECT_EQ(there.Content(), source.records);
}

TEST(JournalCopies, WhatTheDatabaseHasNotIsNeverOverwritten) {
  Copies there;
  Source source;
  source.Put("C1", "a");
  Source behind = source;
  source.Put("C1", "b");
  ASSERT_TRUE(there.Give(source).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(there.Give(behind, 2)));
  EXPECT_EQ(there.Content(), source.records);
  ASSERT_TRUE(there.Give(behind, 3, /*overwrite=*/true).ok());
  EXPECT_EQ(there.Content(), behind.records);
  EXPECT_TRUE(fs::exists(there.folder_of() + ".aside-1"));
  EXPECT_EQ(there.copies->List().size(), 1U);
}

TEST(JournalCopies, AFenceKeepsThoseOutThatStayedBehind) {
  Copies there;
  Source source;
  source.Put("C1", "text of a user");
  ASSERT_TRUE(there.Give(source).ok());
  Source adopter = source;
  adopter.at = adopter.at.Branched();
  ASSERT_EQ(there.copies->Fence(there.state, adopter.at), absl::OkStatus());
  there.Open();
  EXPECT_EQ(there.Only().condition, Condition::kFence);
  EXPECT_EQ(there.Only().position, adopter.at);
  EXPECT_EQ(there.FilesWith("text of a user"), 0);
  EXPECT_TRUE(absl::IsNotFound(there.copies->Read(there.state, "").status()));
  const JournalEntry late = source.Put("C2", "late");
  EXPECT_TRUE(absl::IsNotFound(there.copies->Append(there.state, {&late, 1}).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(there.Give(source, 2)));
  adopter.Put("C3", "on");
  EXPECT_EQ(there.Give(adopter, 3), absl::OkStatus());
  EXPECT_EQ(there.Content(), adopter.records);
  // It is a copy of what went on, so no fence is needed.
  ASSERT_TRUE(there.copies->Fence(there.state, source.at).ok());
  EXPECT_EQ(there.Content(), adopter.records);
}

TEST(JournalCopies, WhatIsErasedIsInNoFile) {
  Copies there;
  Source source;
  source.Put("Ca1", "secret");
  source.Put("Cb1", "other");
  ASSERT_TRUE(there.Give(source).ok());
  const JournalPosition before = source.at;
  JournalEntry erased{.at = source.at.Next(), .changes = {}};
  erased.changes.push_back(
      {.kind = JournalChange::Kind::kDeleteRange, .place = "Ca", .bytes = "Cb"});
  source.at = erased.at;
  ASSERT_EQ(*there.copies->Append(there.state, {&erased, 1}), erased.at);
  EXPECT_GT(there.FilesWith("secret"), 0);
  const std::vector<PlaceRange> ranges = {{"Ca", "Cb"}};
  ASSERT_EQ(there.copies->Erase(there.state, erased.at, ranges), absl::OkStatus());
  EXPECT_EQ(there.FilesWith("secret"), 0);
  EXPECT_GT(there.FilesWith("other"), 0);
  EXPECT_EQ(there.Content(),
            (std::map<std::string, std::string>{{"I", "identity"}, {"Cb1", "other"}}));
  there.Open();
  EXPECT_EQ(there.Only().position, erased.at);

  // One that has not heard of it keeps a fence.
  ASSERT_EQ(there.copies->Erase(there.state, Moved(erased.at, 1), ranges), absl::OkStatus());
  EXPECT_EQ(there.Only().condition, Condition::kFence);
  EXPECT_EQ(there.FilesWith("other"), 0);
  // One of another branch is not touched, and says so.
  Source forked = source;
  forked.at = before.Branched();
  Copies elsewhere;
  ASSERT_TRUE(elsewhere.Give(forked).ok());
  EXPECT_TRUE(
      absl::IsFailedPrecondition(elsewhere.copies->Erase(elsewhere.state, source.at, ranges)));
  // None there: nothing to do.
  EXPECT_EQ(elsewhere.copies->Erase(StateId{9}, source.at, ranges), absl::OkStatus());
}

TEST(JournalCopies, ADamagedOneIsNoneUntilItIsReplaced) {
  for (const std::string extension : {".sst", ".log"}) {
    Copies there;
    Source source;
    for (int i = 0; i < 5; ++i) source.Put(fmt::format("C{}", i), std::string(500, 'x'));
    ASSERT_TRUE(there.Give(source).ok());
    if (extension == ".sst") {
      // Purging nothing writes tables.
      ASSERT_TRUE(
          there.copies->Erase(there.state, source.at, std::vector<PlaceRange>{{"D", "E"}}).ok());
    }
    for (int i = 0; i < 5; ++i) {
      const JournalEntry entry = source.Put(fmt::format("C{}", i), std::string(500, 'y'));
      ASSERT_TRUE(there.copies->Append(there.state, {&entry, 1}).ok());
    }
    there.copies.reset();
    int damaged = 0;
    for (const auto& entry : fs::directory_iterator(there.folder_of())) {
      if (entry.path().extension() != extension || fs::file_size(entry.path()) == 0) continue;
      std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(300);
      file.put('!');
      ++damaged;
    }
    ASSERT_GT(damaged, 0);
    there.Open();
    EXPECT_EQ(there.Only().condition, Condition::kDamaged) << extension;
    EXPECT_TRUE(absl::IsNotFound(there.copies->Append(there.state, {}).status()));
    EXPECT_EQ(there.Give(source, 2), absl::OkStatus());
    EXPECT_EQ(there.Content(), source.records);
    EXPECT_EQ(there.Only().condition, Condition::kWhole);
  }
}

TEST(JournalCopies, WhatIsInTheirWayIsPutAside) {
  Copies there;
  Source source;
  for (int i = 0; i < 5; ++i) source.Put(fmt::format("C{}", i), std::string(500, 'x'));
  ASSERT_TRUE(there.Give(source).ok());
  const std::string copy = there.folder_of();
  const std::string all = fs::path(copy).parent_path();
  const auto obstruct = [](const std::string& path) {
    fs::remove_all(path);
    fs::create_directory(path);
    std::ofstream(path + "/mine") << "mine";
  };
  there.copies.reset();
  obstruct(copy + "/CURRENT");
  obstruct(all + "/backup.new");
  obstruct(all + "/backup.old");
  there.Open();
  EXPECT_EQ(there.Only().condition, Condition::kDamaged);
  EXPECT_EQ(there.Give(source, 2), absl::OkStatus());
  EXPECT_EQ(there.Content(), source.records);
  EXPECT_TRUE(fs::exists(copy + ".CURRENT.damaged-1/mine"));
  EXPECT_TRUE(fs::exists(all + "/backup.new/mine")) << "no state's";
  EXPECT_TRUE(fs::exists(all + "/backup.old/mine"));
  // Files in the place of a copy, of one that comes, and of all.
  there.copies.reset();
  fs::remove_all(copy);
  for (const char* suffix : {"", ".new", ".old"}) std::ofstream(copy + suffix) << "mine";
  there.Open();
  EXPECT_EQ(there.Give(source, 3), absl::OkStatus());
  EXPECT_EQ(there.Content(), source.records);
  for (const char* suffix : {"", ".new", ".old"}) {
    EXPECT_TRUE(fs::is_regular_file(fmt::format("{}{}.damaged-1", copy, suffix))) << suffix;
  }
  there.copies.reset();
  fs::remove_all(all);
  std::ofstream(all) << "mine";
  there.Open();
  EXPECT_EQ(there.Give(source, 4), absl::OkStatus());
  EXPECT_TRUE(fs::is_regular_file(all + ".damaged-1"));
}

TEST(JournalCopies, WhatIsNotInItsPlaceIsNoCopy) {
  const std::map<std::string, std::function<void(const Copies&)>> all = {
      {"all is removed", [](const Copies& there) { fs::remove_all(there.folder()); }},
      {"it is removed", [](const Copies& there) { fs::remove_all(there.folder_of()); }},
      {"it is moved",
       [](const Copies& there) { fs::rename(there.folder_of(), there.folder() + "/elsewhere"); }},
      {"its log is removed",
       [](const Copies& there) {
         for (const auto& entry : fs::directory_iterator(there.folder_of())) {
           if (entry.path().extension() == ".log") fs::remove(entry.path());
         }
       }},
      {"CURRENT is removed",
       [](const Copies& there) { fs::remove(there.folder_of() + "/CURRENT"); }}};
  for (const auto& [what, disturb] : all) {
    SCOPED_TRACE(what);
    Copies there;
    Source source;
    ASSERT_TRUE(there.Give(source).ok());
    JournalEntry entry = source.Put("C1", "x");
    ASSERT_TRUE(there.copies->Append(there.state, {&entry, 1}).ok());
    disturb(there);
    const auto has_all = [&](const absl::StatusOr<JournalPosition>& position) {
      return position.ok() && position->Contains(source.at);
    };
    // Also of a server that only shows that it is there.
    EXPECT_FALSE(has_all(there.copies->Append(there.state, {})));
    entry = source.Put("C2", "x");
    EXPECT_FALSE(has_all(there.copies->Append(there.state, {&entry, 1})));
    ASSERT_EQ(there.Give(source), absl::OkStatus());
    entry = source.Put("C3", "x");
    ASSERT_TRUE(there.copies->Append(there.state, {&entry, 1}).ok());
    there.Open();
    EXPECT_EQ(there.Content(), source.records);
  }
}

TEST(JournalCopies, AnOlderCopyInItsPlaceIsTheCopy) {
  Copies there;
  Source source;
  ASSERT_TRUE(there.Give(source).ok());
  const TemporaryDirectory older;
  fs::copy(there.folder_of(), older.path() + "/copy");
  std::vector<JournalEntry> entries;
  for (int i = 0; i < 3; ++i) entries.push_back(source.Put(fmt::format("C{}", i), "x"));
  ASSERT_TRUE(there.copies->Append(there.state, entries).ok());
  fs::remove_all(there.folder_of());
  fs::copy(older.path() + "/copy", there.folder_of());
  const JournalEntry next = source.Put("C4", "x");
  const auto position = there.copies->Append(there.state, {&next, 1});
  ASSERT_TRUE(position.ok()) << position.status();
  EXPECT_EQ(position->sequence, 0U) << "it says what it lacks";
  entries.push_back(next);
  EXPECT_EQ(*there.copies->Append(there.state, entries), source.at);
  there.Open();
  EXPECT_EQ(there.Content(), source.records);
}

TEST(JournalCopies, ATornLogCostsTheTornChangesOnly) {
  Copies there;
  Source source;
  ASSERT_TRUE(there.Give(source).ok());
  std::vector<JournalEntry> entries;
  for (int i = 0; i < 5; ++i) {
    entries.push_back(source.Put(fmt::format("C{}", i), std::string(500, 'x')));
    ASSERT_TRUE(there.copies->Append(there.state, {&entries.back(), 1}).ok());
  }
  there.copies.reset();
  for (const auto& entry : fs::directory_iterator(there.folder_of())) {
    if (entry.path().extension() != ".log" || fs::file_size(entry.path()) < 600) continue;
    fs::resize_file(entry.path(), fs::file_size(entry.path()) - 100);
  }
  there.Open();
  EXPECT_EQ(there.Only().position->sequence, 4U);
  EXPECT_EQ(*there.copies->Append(there.state, entries), source.at);
  EXPECT_EQ(there.Content(), source.records);
}

}  // namespace
}  // namespace tandem::kv_store
