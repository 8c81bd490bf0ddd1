#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/db.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <span>

#include "frontend/conversations/conversation_store.h"
#include "kv_store/base/files.h"
#include "tests/support/kept_store.h"
#include "tests/support/random_conversations.h"

namespace tandem::frontend {
namespace {

namespace fs = std::filesystem;
using testing::ContentOf;
using ::testing::HasSubstr;
using testing::KeptStore;
using testing::RandomConversations;
using testing::Said;
using testing::Same;

using Damage = std::function<void(const fs::path&)>;

void Overwrite(const fs::path& path, const std::string& content) {
  fs::remove(path);  // whoever has a link to it keeps what was there
  std::ofstream(path, std::ios::binary) << content;
}

Damage FlipAt(double part, int bit) {
  return [part, bit](const fs::path& path) {
    std::string content = ContentOf(path);
    if (content.empty()) return;
    const auto at = static_cast<size_t>(part * static_cast<double>(content.size() - 1));
    content[at] = static_cast<char>(content[at] ^ (1 << bit));
    Overwrite(path, content);
  };
}

Damage CutTo(double part) {
  return [part](const fs::path& path) {
    const std::string content = ContentOf(path);
    Overwrite(path,
              content.substr(0, static_cast<size_t>(part * static_cast<double>(content.size()))));
  };
}

/// A sector that was never written.
Damage ZeroAt(double part) {
  return [part](const fs::path& path) {
    constexpr size_t kSector = 512;
    std::string content = ContentOf(path);
    const auto at = static_cast<size_t>(part * static_cast<double>(content.size()));
    const size_t bytes = std::min(kSector, content.size() - at);
    content.replace(at, bytes, bytes, '\0');
    Overwrite(path, content);
  };
}

Conversation Kept(const Conversation& all, size_t messages) {
  Conversation kept = all;
  kept.messages.resize(messages);
  return kept;
}

/// What was found is what was said, or its beginning with damage that is told; how many are
/// damaged.
int64_t CheckFound(const FoundConversations& found, const Said& said, const KeptStore& kept) {
  int64_t damaged = 0;
  std::map<ConversationName, const Conversation*> named;
  for (const auto& [name, one] : found.conversations) named[name] = &one;
  EXPECT_EQ(named.size(), found.conversations.size());
  EXPECT_LE(found.conversations.size() + found.nameless.size(), said.size());
  EXPECT_TRUE(found.unreadable.empty() || found.unreadable[0].prefix.empty());
  for (const auto& [name, all] : said) {
    const auto there = named.find(name);
    const auto nameless = found.nameless.find(kept.store->PrefixOf(name));
    const bool is_there = there != named.end();
    EXPECT_NE(is_there, nameless != found.nameless.end()) << name.id << " is lost silently";
    if (!is_there && nameless == found.nameless.end()) continue;
    const Conversation& one = is_there ? *there->second : nameless->second;
    if (!one.damaged) {
      EXPECT_TRUE(Same(one, all)) << name.id << " is cut silently";
      continue;
    }
    ++damaged;
    EXPECT_LE(one.messages.size(), all.messages.size());
    EXPECT_EQ(one.messages, Kept(all, one.messages.size()).messages);
  }
  return damaged;
}

/// Every kind of damage of every file.
void DamageAll(const KeptStore& open, const Said& said) {
  KeptStore made;
  made.box = open.box;
  open.CopyTo(made);
  std::vector<std::pair<std::string, Damage>> kinds = {
      {"deleted", [](const fs::path& path) { fs::remove(path); }},
      {"cut to nothing", CutTo(0)},
      {"cut to a half", CutTo(0.5)},
      {"cut to almost all", CutTo(0.99)},
      {"twice", [](const fs::path& path) { Overwrite(path, ContentOf(path) + ContentOf(path)); }}};
  RandomConversations random(7);
  for (int i = 0; i <= 6; ++i) {
    kinds.emplace_back(fmt::format("flipped at {}/6", i),
                       FlipAt(i / 6.0, static_cast<int>(random.Below(8))));
  }
  for (const double part : {0.0, 0.2, 0.4, 0.6, 0.8}) {
    kinds.emplace_back(fmt::format("zeroed at {}", part), ZeroAt(part));
  }
  for (const fs::path& file : made.Files()) {
    const std::string name = file.filename();
    const bool unread = name == "IDENTITY" || name.starts_with("OPTIONS");
    for (const auto& [kind, damage] : std::span(kinds).first(unread ? 6 : kinds.size())) {
      SCOPED_TRACE(fmt::format("{}, {}", file.string(), kind));
      KeptStore one;
      one.box = made.box;
      fs::copy(made.path(), one.path(),
               fs::copy_options::recursive | fs::copy_options::overwrite_existing);
      damage(fs::path(one.path()) / file);
      const FoundConversations found = one.Open();
      ASSERT_NE(one.store, nullptr);
      const int64_t damaged = CheckFound(found, said, one);
      EXPECT_EQ(damaged, found.damaged());
      // Tables and logs have all that was said; what else there is can be made again.
      if (file.extension() != ".sst" && file.extension() != ".log") {
        EXPECT_EQ(damaged, 0);
      }
      if (damaged > 0) {
        EXPECT_NE(found.damage, "");
        EXPECT_THAT(found.damage, HasSubstr(one.folder() + ".damaged-1"));
        EXPECT_TRUE(fs::exists(one.folder() + ".damaged-1"));
      }
      EXPECT_FALSE(fs::exists(one.folder() + ".before"));
      if (found.damage.empty()) continue;
      // The next start tells the same, and keeps nothing more.
      const FoundConversations again = one.Open();
      ASSERT_NE(one.store, nullptr);
      EXPECT_EQ(CheckFound(again, said, one), damaged);
      EXPECT_EQ(again.damage, "") << found.damage;
    }
  }
}

TEST(ConversationDamage, OfALogIsToldOrCostsNothing) {
  KeptStore made;
  made.Open();
  Said said;
  RandomConversations random(1);
  for (int turn = 0; turn < 3; ++turn) made.SayOneMore(said, random);
  DamageAll(made, said);
}

TEST(ConversationDamage, OfTablesIsToldOrCostsNothing) {
  KeptStore made;
  Said said;
  RandomConversations random(2);
  for (int turn = 0; turn < 3; ++turn) {
    made.Open();
    made.SayOneMore(said, random);
  }
  DamageAll(made, said);
}

TEST(ConversationDamage, OfAClosedStoreIsToldOrCostsNothing) {
  KeptStore made;
  Said said;
  RandomConversations random(3);
  const kv_store::EncryptedBox box(kv_store::StateKey{1, 2, 3});
  made.box = &box;
  made.Open();
  made.SayOneMore(said, random);
  made.SayOneMore(said, random);
  made.Open();
  made.Erase({"t", "b"});
  said.erase({"t", "b"});
  made.store.reset();
  DamageAll(made, said);
}

TEST(ConversationDamage, AManifestThatIsCutAnywhereCostsNothing) {
  KeptStore open;
  Said said;
  RandomConversations random(11);
  for (int turn = 0; turn < 2; ++turn) {
    open.Open();
    open.SayOneMore(said, random);
  }
  KeptStore made;
  open.CopyTo(made);
  fs::path manifest;
  for (const fs::path& file : made.Files()) {
    if (file.filename().string().starts_with("MANIFEST")) manifest = file;
  }
  const std::string content = ContentOf(fs::path(made.path()) / manifest);
  for (size_t size = 0; size<content.size(); size += content.size()> 200 ? 4 : 1) {
    SCOPED_TRACE(size);
    KeptStore one;
    fs::copy(made.path(), one.path(),
             fs::copy_options::recursive | fs::copy_options::overwrite_existing);
    Overwrite(fs::path(one.path()) / manifest, content.substr(0, size));
    EXPECT_EQ(CheckFound(one.Open(), said, one), 0);
  }
}

TEST(ConversationDamage, OfTheWholeFolderIsKnownByName) {
  KeptStore kept;
  kept.Open();
  Said said;
  RandomConversations random(4);
  kept.SayOneMore(said, random);
  kept.store.reset();
  fs::remove_all(kept.folder());
  const FoundConversations found = kept.Open();
  EXPECT_EQ(found.nameless.size(), 3U);
  EXPECT_EQ(CheckFound(found, said, kept), 3);
  // One is gone on with, one is deleted, one stays as it is.
  const Conversation next = random.Next({});
  kept.Say({"t", "a"}, {}, next);
  kept.Erase({"t", "b"});
  said = {{{"t", "a"}, next}, {{"t", "c"}, said.at({"t", "c"})}};
  const FoundConversations after = kept.Open();
  EXPECT_EQ(CheckFound(after, said, kept), 1);
  ASSERT_EQ(after.conversations.size(), 1U);
  EXPECT_FALSE(after.conversations[0].second.damaged);
}

TEST(ConversationDamage, IsOverOnceItIsGoneOnWith) {
  KeptStore kept;
  kept.Open();
  Said said;
  RandomConversations random(5);
  for (int turn = 0; turn < 3; ++turn) kept.SayOneMore(said, random);
  KeptStore cut;
  kept.CopyTo(cut);
  for (const fs::path& file : cut.Files()) {
    if (file.extension() == ".log") CutTo(0.6)(fs::path(cut.path()) / file);
  }
  FoundConversations found = cut.Open();
  EXPECT_GT(CheckFound(found, said, cut), 0);
  for (const auto& [name, one] : found.conversations) {
    Conversation after = random.Next(one);
    const ConversationStore::Change change = ConversationStore::Turn{
        name, one.damaged ? DeltaOf(after) : RandomConversations::Delta(one, after)};
    ASSERT_TRUE(cut.store->Write({&change, 1}).ok());
    said[name] = after;
  }
  for (const auto& [prefix, one] : found.nameless) EXPECT_TRUE(one.messages.empty());
  const FoundConversations after = cut.Open();
  EXPECT_EQ(CheckFound(after, said, cut), static_cast<int64_t>(found.nameless.size()));
}

TEST(ConversationDamage, OfAWitnessBringsNothingBackThatWasErased) {
  KeptStore open;
  Said said;
  RandomConversations random(10);
  open.Open();
  open.SayOneMore(said, random);
  open.Erase({"t", "b"});
  said.erase({"t", "b"});
  KeptStore made;
  open.CopyTo(made);
  const std::string witness = ContentOf(made.witness());
  ASSERT_EQ(witness.size() % kWitnessSlotBytes, 0U);
  for (size_t at = 0; at <= witness.size(); at += kWitnessSlotBytes) {
    for (const bool cut : {true, false}) {
      SCOPED_TRACE(fmt::format("slot {}, cut {}", at / kWitnessSlotBytes, cut));
      KeptStore one;
      fs::copy(made.path(), one.path(),
               fs::copy_options::recursive | fs::copy_options::overwrite_existing);
      std::string changed = cut ? witness.substr(0, at) : witness;
      if (!cut && at < changed.size()) changed[at + 20] ^= 4;
      Overwrite(one.witness(), changed);
      EXPECT_EQ(CheckFound(one.Open(), said, one), 0);
    }
  }
}

TEST(ConversationDamage, ATurnOfAnotherHistoryBreaksTheChain) {
  // Two stores go on from the same turn; then one has a turn of the other, with its right checksum.
  RandomConversations random(9);
  const ConversationName name{"t", "a"};
  const Conversation first = random.Next({});
  KeptStore one;
  one.Open();
  one.Say(name, {}, first);
  KeptStore other;
  one.CopyTo(other);
  other.Open();
  other.Say(name, first, random.Next(first));
  const Conversation second = random.Next(first);
  one.Say(name, first, second);
  one.Say(name, second, random.Next(second));
  const std::string place = ConversationPlaces::Place(one.store->PrefixOf(name), 2);
  const auto records = other.store->ReadAll();
  ASSERT_TRUE(records.ok());
  one.store.reset();
  fs::remove(one.witness());  // the chain alone must tell
  {
    const auto db = kv_store::OpenDatabase(one.folder());
    ASSERT_TRUE(db.ok());
    for (const kv_store::PlacedRecord& record : *records) {
      if (record.place != place) continue;
      ASSERT_TRUE(kv_store::WriteAll(**db, {record}).ok());
    }
  }
  const FoundConversations found = one.Open();
  ASSERT_EQ(found.conversations.size(), 1U);
  EXPECT_TRUE(found.conversations[0].second.damaged);
  EXPECT_NE(found.damage, "");
}

TEST(ConversationDamage, ADeadStartIsStartedAgain) {
  KeptStore kept;
  kept.Open();
  Said said;
  RandomConversations random(6);
  kept.SayOneMore(said, random);
  kept.store.reset();
  // It died while it opened the database, whose files it had changed already.
  std::ofstream(kept.folder() + ".opening").close();
  fs::rename(kept.folder(), kept.folder() + ".before");
  fs::create_directory(kept.folder());
  Overwrite(fs::path(kept.folder()) / "CURRENT", "MANIFEST-000099\n");
  EXPECT_EQ(CheckFound(kept.Open(), said, kept), 0);
}

/// Somebody's own copy, or a file, has the name that an interrupted start leaves.
TEST(ConversationDamage, AnotherFolderOfAnImagesNameTakesNothingAway) {
  for (const bool folder : {true, false}) {
    RandomConversations random(7);
    KeptStore kept;
    Said said;
    kept.Open();
    kept.SayOneMore(said, random);
    kept.store.reset();
    const std::string before = kept.folder() + ".before";
    if (folder) {
      fs::copy(kept.folder(), before, fs::copy_options::recursive);
    } else {
      std::ofstream(before) << "mine";
    }
    kept.Open();
    kept.SayOneMore(said, random);
    const FoundConversations found = kept.Open();
    EXPECT_EQ(found.damage, "");
    ASSERT_EQ(found.conversations.size(), said.size());
    for (const auto& [name, conversation] : found.conversations) {
      EXPECT_EQ(conversation.messages, said[name].messages);
      EXPECT_FALSE(conversation.damaged);
    }
    EXPECT_FALSE(fs::exists(before));
    EXPECT_FALSE(fs::exists(kept.folder() + ".opening"));
    EXPECT_TRUE(fs::exists(kept.folder() + ".aside-1"));
  }
}

/// Somebody's own folder, or another thing, in the place of each file.
TEST(ConversationDamage, WhatIsInTheWayIsPutAside) {
  KeptStore made;
  Said said;
  RandomConversations random(12);
  for (int turn = 0; turn < 2; ++turn) {
    made.Open();
    made.SayOneMore(said, random);
  }
  KeptStore image;
  made.CopyTo(image);
  std::vector<fs::path> files = image.Files();
  files.insert(files.end(), {"conversations/LOCK", "conversations/notes", "conversations.opening",
                             "conversations.linking", "conversations.new", "conversations"});
  const std::set<fs::path> untold = {"conversations.opening", "conversations.linking",
                                     "conversations.new"};
  for (const fs::path& file : files) {
    for (const std::string kind : {"folder", "pipe", "dangling link"}) {
      SCOPED_TRACE(fmt::format("{} in the place of {}", kind, file.string()));
      KeptStore one;
      fs::copy(image.path(), one.path(),
               fs::copy_options::recursive | fs::copy_options::overwrite_existing);
      const fs::path path = fs::path(one.path()) / file;
      if (kind == "folder" && file.extension() != ".opening" && !fs::is_regular_file(path) &&
          file.parent_path().empty()) {
        continue;  // it is one, or might be
      }
      fs::remove_all(path);
      if (kind == "folder") {
        fs::create_directory(path);
        std::ofstream(path / "mine") << "mine";
      } else if (kind == "pipe") {
        ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
      } else {
        fs::create_symlink("/no/such/place", path);
      }
      const FoundConversations found = one.Open();
      ASSERT_NE(one.store, nullptr);
      const int64_t damaged = CheckFound(found, said, one);
      // RocksDB's tables and logs have all that was said.
      const bool needed =
          file.extension() == ".sst" || file.extension() == ".log" || file == "conversations";
      EXPECT_TRUE(damaged == 0 || needed);
      std::string name = file.string();
      std::replace(name.begin(), name.end(), '/', '.');
      const std::string aside = fmt::format("{}/{}.damaged-1", one.path(), name);
      EXPECT_NE(fs::symlink_status(aside).type(), fs::file_type::not_found) << aside;
      EXPECT_EQ(fs::exists(aside + "/mine"), kind == "folder");
      if (!untold.contains(file)) {
        EXPECT_THAT(found.damage, HasSubstr(aside));
      }
      EXPECT_EQ(one.Open().damage, "");
      ASSERT_NE(one.store, nullptr);
      one.Say({"t", "new"}, {}, random.Next({}));
    }
  }
}

#ifndef __SANITIZE_THREAD__  // it knows of threads that a child does not have, and minds new ones
TEST(ConversationDamage, AFileThatItsOwnerMayNotReadIsRead) {
  KeptStore made;
  Said said;
  RandomConversations random(13);
  made.Open();
  made.SayOneMore(said, random);
  made.store.reset();
  if (geteuid() == 0) {
    for (const auto& entry : fs::recursive_directory_iterator(made.path())) {
      ASSERT_EQ(chown(entry.path().c_str(), 4321, 4321), 0);
    }
    ASSERT_EQ(chown(made.path().c_str(), 4321, 4321), 0);
  }
  const pid_t child = fork();
  if (child == 0) {
    if (geteuid() == 0 && (setgid(4321) != 0 || setuid(4321) != 0)) _exit(2);
    for (const fs::path& file : made.Files()) fs::permissions(made.path() / file, fs::perms::none);
    fs::permissions(made.folder(), fs::perms::none);
    const FoundConversations found = made.Open();
    const bool right = made.store != nullptr && CheckFound(found, said, made) == 0 &&
                       found.damage.find("may now") != std::string::npos;
    _exit(right ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}
#endif

TEST(ConversationDamage, WhatAnOlderProgramWroteIsRead) {
  KeptStore kept;
  fs::copy(TANDEM_SOURCE_DIR "/tests/golden/state/conversations", kept.folder());
  const FoundConversations found = kept.Open();
  EXPECT_EQ(found.damage, "");
  EXPECT_EQ(found.damaged(), 0);
  Said said;
  for (const auto& [name, one] : found.conversations) {
    ASSERT_EQ(one.messages.size(), 6U);
    for (size_t turn = 0; turn < 3; ++turn) {
      EXPECT_EQ(one.messages[2 * turn].content, fmt::format("Turn {} of {}", turn, name.id));
      EXPECT_EQ(one.messages[2 * turn + 1].role, "assistant");
      EXPECT_NE(one.messages[2 * turn + 1].content, "");
    }
    EXPECT_GT(one.history.tokens.size(), 50U);
    said[name] = one;
  }
  EXPECT_EQ(said.size(), 2U);
  // Turns of both versions are a chain.
  RandomConversations random(8);
  for (auto& [name, one] : said) {
    const Conversation after = random.Next(one);
    kept.Say(name, one, after);
    one = after;
  }
  EXPECT_EQ(CheckFound(kept.Open(), said, kept), 0);
}

}  // namespace
}  // namespace tandem::frontend
