#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kv_store/journal/journal_copies.h"
#include "tests/support/disk_image.h"
#include "tests/support/random.h"
#include "tests/support/temporary_directory.h"

/// Files of several times of a copy of conversations, copied over each other.
namespace tandem::kv_store {
namespace {

namespace fs = std::filesystem;
using testing::SplitMix;
using testing::TemporaryDirectory;

using Records = std::map<std::string, std::string>;

/// A copy that follows its database, and what the database was at each of its positions.
class FollowedCopy {
 public:
  explicit FollowedCopy(uint64_t seed) : random_(seed) {
    Open();
    GiveWhole();
  }

  void Act() {
    switch (random_.Below(8)) {
      case 0:
        Open();
        break;
      case 1:
        backups_.push_back(fmt::format("{}/{}", folder_.path(), backups_.size()));
        testing::CopyAsOfAMoment(copy_folder(), backups_.back());
        break;
      case 2:
        Erase();
        break;
      default:
        Append();
    }
  }
  void MixFiles() {
    copies_.reset();
    if (!backups_.empty()) {
      fs::copy(backups_[random_.Below(backups_.size())], copy_folder(),
               fs::copy_options::recursive | fs::copy_options::overwrite_existing);
    }
    Open();
  }
  /// Opened as it is it ends nothing, and has none but records of its database, or counts for
  /// nothing; a whole one replaces it.
  void CheckAndCatchUp() {
    const std::vector<JournalCopy> all = copies_->List();
    ASSERT_EQ(all.size(), 1U);
    if (all.front().condition == JournalCopy::Condition::kWhole) {
      ASSERT_TRUE(at_.Contains(*all.front().position));
      for (const auto& [place, bytes] : Content()) {
        EXPECT_TRUE(written_.contains({place, bytes})) << place;
      }
    }
    GiveWhole();
    EXPECT_EQ(Content(), then_[at_.sequence]);
  }

 private:
  std::string copy_folder() const {
    return fmt::format("{}/copies/{}", folder_.path(), StateIdText(state_));
  }
  void Open() {
    copies_.reset();
    copies_.emplace(JournalCopies::Options{.folder = folder_.path() + "/copies"});
  }
  void GiveWhole() {
    JournalPart part{.session = ++sessions_, .last = true, .at = at_, .records = {}};
    for (const auto& [place, bytes] : then_[at_.sequence]) part.records.push_back({place, bytes});
    part.records.push_back({std::string(kPositionPlace), EncodePosition(at_)});
    ASSERT_EQ(copies_->Take(state_, part), absl::OkStatus());
  }
  void Append() {
    Records now = then_[at_.sequence];
    JournalEntry entry{.at = at_.Next(), .changes = {}};
    const std::string place = fmt::format("C{}", random_.Below(40));
    const std::string bytes(random_.Below(20000), static_cast<char>('a' + random_.Below(26)));
    now[place] = bytes;
    entry.changes.push_back({.kind = JournalChange::Kind::kPut, .place = place, .bytes = bytes});
    at_ = entry.at;
    then_[at_.sequence] = now;
    written_.insert({place, bytes});
    const auto moved = copies_->Append(state_, {&entry, 1});
    if (!moved.ok() || *moved != at_) GiveWhole();
  }
  void Erase() {
    Records now = then_[at_.sequence];
    JournalEntry entry{.at = at_.Next(), .changes = {}};
    entry.changes.push_back(
        {.kind = JournalChange::Kind::kDeleteRange, .place = "C1", .bytes = "C2"});
    now.erase(now.lower_bound("C1"), now.lower_bound("C2"));
    at_ = entry.at;
    then_[at_.sequence] = now;
    const auto moved = copies_->Append(state_, {&entry, 1});
    if (!moved.ok() || *moved != at_) GiveWhole();
    const std::vector<PlaceRange> ranges = {{"C1", "C2"}};
    ASSERT_EQ(copies_->Erase(state_, at_, ranges), absl::OkStatus());
  }
  Records Content() {
    Records content;
    std::string behind;
    for (bool more = true; more;) {
      const auto page = copies_->Read(state_, behind);
      EXPECT_TRUE(page.ok()) << page.status();
      if (!page.ok()) break;
      for (const PlacedRecord& record : page->records) {
        behind = record.place;
        if (behind != kPositionPlace) content[behind] = record.bytes;
      }
      more = page->more;
    }
    return content;
  }

  SplitMix random_;
  TemporaryDirectory folder_;
  const StateId state_{1, 2, 3};
  std::optional<JournalCopies> copies_;
  JournalPosition at_ = NewJournal();
  std::map<uint64_t, Records> then_ = {{0, {{"I", "identity"}}}};
  std::set<std::pair<std::string, std::string>> written_ = {{"I", "identity"}};
  uint64_t sessions_ = 0;
  std::vector<std::string> backups_;
};

TEST(CopiesMixture, EndsNothingAndIsReplacedByAWholeOne) {
  for (uint64_t seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE(seed);
    FollowedCopy copy(seed);
    for (int round = 0; round < 4; ++round) {
      for (int i = 0; i < 12; ++i) copy.Act();
      copy.MixFiles();
      copy.CheckAndCatchUp();
    }
  }
}

}  // namespace
}  // namespace tandem::kv_store
