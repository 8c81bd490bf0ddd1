#include "launcher/state/state_recovery.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <map>
#include <set>

#include "frontend/conversations/conversation_writer.h"
#include "kv_store/base/files.h"
#include "tests/support/copy_hosts.h"
#include "tests/support/disk_image.h"
#include "tests/support/random_conversations.h"
#include "tests/support/temporary_directory.h"

namespace tandem::launcher {
namespace {

namespace fs = std::filesystem;
using frontend::Conversation;
using frontend::ConversationDelta;
using frontend::ConversationName;
using frontend::ConversationStore;
using frontend::ConversationWriter;
using kv_store::CopyKeeper;
using kv_store::StateIdText;
using std::chrono::milliseconds;
using ::testing::HasSubstr;
using Hosts = testing::CopyHosts;
using testing::RandomConversations;
using testing::Same;
using testing::TemporaryDirectory;

using Found = std::map<ConversationName, Conversation>;

/// A server's conversations in a state directory.
struct Server {
  Server(Hosts& of, std::string directory) : hosts(of), path(std::move(directory)) {
    fs::create_directories(path);
  }
  std::string folder() const { return path + "/conversations"; }

  /// As `tandem serve` does.
  absl::Status Start(const std::string& recover = "", bool copied = true) {
    writer.reset();
    TANDEM_ASSIGN_OR_RETURN(const RecoverChoice choice, ParseRecoverChoice(recover));
    std::unique_ptr<ConversationStore> store;
    const auto open = [&]() -> absl::Status {
      TANDEM_ASSIGN_OR_RETURN(auto opened, ConversationStore::Open({.folder = folder()}));
      store = std::move(opened.store);
      read = std::move(opened.found);
      EXPECT_TRUE(read.unreadable.empty());
      return absl::OkStatus();
    };
    if (fs::exists(folder())) TANDEM_RETURN_IF_ERROR(open());
    if (store) {
      TANDEM_RETURN_IF_ERROR(TakeFromCopies({store->state(), hosts.Ask()}, *store, read));
      TANDEM_ASSIGN_OR_RETURN(const bool another, ChoseAnother({store->state(), hosts.Ask()},
                                                               choice, store->position()));
      if (another) {
        store.reset();
        fs::rename(folder(), kv_store::FreeName(folder(), "aside"));
        fs::remove(ConversationStore::WitnessPath(folder()));
      }
    }
    adopted = false;
    if (!store) {
      TANDEM_ASSIGN_OR_RETURN(adopted, AdoptCopy(hosts.Ask(), choice, folder()));
      TANDEM_RETURN_IF_ERROR(open());
    }
    TANDEM_RETURN_IF_ERROR(CheckNobodyWentOn({store->state(), hosts.Ask()},
                                             choice.own || (adopted && choice.state), *store));
    state = store->state();
    found = {read.conversations.begin(), read.conversations.end()};
    ConversationWriter::Options options;
    options.directory = path;
    options.retry = milliseconds(20);
    options.copier = {.deadline = milliseconds(20'000),
                      .retry = milliseconds(10),
                      .sign = milliseconds(20),
                      .tidy = tidy,
                      .queue_bytes = 20000,
                      .batch_bytes = 3000};
    const CopyKeeper keeper(state, hosts.Ask());
    if (copied) options.keeper = keeper;
    options.erase_copies = [keeper, raw = store.get()](auto ranges) {
      return keeper.Erase(raw->position(), ranges);
    };
    writer = std::make_unique<ConversationWriter>(std::move(options), std::move(store),
                                                  frontend::FoundConversations());
    return absl::OkStatus();
  }
  absl::Status Append(const ConversationName& name, ConversationDelta delta) {
    std::promise<absl::Status> told;
    writer->Append(name, std::move(delta), {},
                   [&](absl::Status status) { told.set_value(std::move(status)); });
    return told.get_future().get();
  }
  absl::Status Say(const std::string& id, const std::string& text) {
    ConversationDelta delta;
    delta.messages.push_back({"user", text});
    return Append({"", id}, std::move(delta));
  }
  absl::Status Erase(const ConversationName& name) {
    std::promise<absl::Status> told;
    writer->Erase(name, {}, [&](absl::Status status) { told.set_value(std::move(status)); });
    return told.get_future().get();
  }
  /// As a kill -9 leaves it. Nothing is said meanwhile.
  void Kill() {
    hosts.Cut(true);  // what it does from now on is not done
    const std::string witness = ConversationStore::WitnessPath(folder());
    const std::string witness_image = path + "/image.witness";
    if (fs::exists(folder())) testing::CopyAsOfAMoment(folder(), path + "/image");
    if (fs::exists(witness)) fs::copy_file(witness, witness_image);
    writer.reset();
    fs::remove_all(folder());
    if (fs::exists(path + "/image")) fs::rename(path + "/image", folder());
    if (fs::exists(witness_image)) fs::rename(witness_image, witness);
    hosts.Cut(false);
  }
  /// Texts of a conversation's messages that were found at the start.
  std::string Said(const std::string& id) {
    std::string all;
    for (const auto& message : found[{"", id}].messages) all += message.content + ";";
    return all;
  }
  bool WaitUntilCopied(const std::string& host = "1") {
    for (int i = 0; i < 1000; ++i) {
      const auto status = writer->Status();
      if (status.copied && status.copied->host == host && status.copied->uncopied_changes == 0 &&
          status.trouble.empty()) {
        return true;
      }
      std::this_thread::sleep_for(milliseconds(5));
    }
    return false;
  }

  Hosts& hosts;
  const std::string path;
  Found found;
  frontend::FoundConversations read;  // the same, as the store has found it
  bool adopted = false;
  milliseconds tidy{10'000};
  kv_store::StateId state{};
  std::unique_ptr<ConversationWriter> writer;
};

int FilesWith(const std::string& folder, const std::string& text) {
  int found = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string content{std::istreambuf_iterator<char>(file), {}};
    found += content.find(text) != std::string::npos ? 1 : 0;
  }
  return found;
}

TEST(RecoverChoice, IsOwnOrAnIdOrOnAHost) {
  EXPECT_TRUE(ParseRecoverChoice("")->none());
  EXPECT_TRUE(ParseRecoverChoice("own")->own);
  const std::string id = "00112233445566778899aabbccddeeff";
  EXPECT_EQ(StateIdText(*ParseRecoverChoice(id)->state), id);
  EXPECT_EQ(ParseRecoverChoice(id + "@b")->host, "b");
  for (const std::string bad : {"x", "own@b", "00112233445566778899aabbccddeeff@", "@b"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseRecoverChoice(bad).status())) << bad;
  }
}

TEST(StateRecovery, WhatWasAcknowledgedGoesOnElsewhere) {
  TemporaryDirectory disk;
  Hosts hosts(2);
  Server first(hosts, disk.path() + "/first");
  ASSERT_EQ(first.Start(), absl::OkStatus());
  EXPECT_FALSE(first.adopted);
  for (int i = 0; i < 50; ++i) {
    ASSERT_EQ(first.Say(fmt::format("c{}", i % 3), fmt::format("t{}", i)), absl::OkStatus());
  }
  first.Kill();
  Server second(hosts, disk.path() + "/second");
  ASSERT_EQ(second.Start(), absl::OkStatus());
  EXPECT_TRUE(second.adopted);
  EXPECT_EQ(second.state, first.state);
  EXPECT_EQ(second.found.size(), 3U);
  EXPECT_EQ(second.found[ConversationName("", "c1")].messages.size(), 17U);
  EXPECT_EQ(second.Say("c1", "on"), absl::OkStatus());
  // It is its own from now on.
  ASSERT_EQ(second.Start(), absl::OkStatus());
  EXPECT_EQ(second.found[ConversationName("", "c1")].messages.back().content, "on");

  // The first comes back with what it had, and is told.
  const absl::Status back = first.Start();
  EXPECT_TRUE(absl::IsFailedPrecondition(back)) << back;
  EXPECT_THAT(Message(back), HasSubstr("--recover"));
  second.writer.reset();
  ASSERT_EQ(first.Start(StateIdText(first.state) + "@1"), absl::OkStatus());
  EXPECT_EQ(first.found[ConversationName("", "c1")].messages.back().content, "on");
  EXPECT_TRUE(fs::exists(first.folder() + ".aside-1"));
  // The same flag again takes nothing back.
  ASSERT_EQ(first.Say("c1", "and on"), absl::OkStatus());
  ASSERT_EQ(first.Start(StateIdText(first.state) + "@1"), absl::OkStatus());
  EXPECT_EQ(first.found[ConversationName("", "c1")].messages.back().content, "and on");
  EXPECT_FALSE(fs::exists(first.folder() + ".aside-2"));
}

/// Damages the files of a database of this kind.
void DamageFiles(const std::string& folder, const std::string& kind,
                 const std::function<void(const fs::path&)>& damage) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) files.push_back(entry.path());
  for (const fs::path& file : files) {
    if (file.filename().string().find(kind) != std::string::npos) damage(file);
  }
}

TEST(StateRecovery, WhatADamagedStoreHasLostComesFromTheCopy) {
  const auto cut = [](const fs::path& file) { fs::resize_file(file, fs::file_size(file) / 2); };
  const auto flip = [](const fs::path& file) {
    std::fstream stream(file, std::ios::binary | std::ios::in | std::ios::out);
    stream.seekp(static_cast<std::streamoff>(fs::file_size(file) / 2));
    stream.put('~');
  };
  const auto remove = [](const fs::path& file) { fs::remove(file); };
  const std::vector<std::pair<std::string, std::function<void(const fs::path&)>>> ways = {
      {".log", cut},    {".log", flip}, {".log", remove}, {".sst", flip},
      {".sst", remove}, {"", remove},   {"", cut}};
  for (size_t way = 0; way < ways.size(); ++way) {
    SCOPED_TRACE(way);
    TemporaryDirectory disk;
    Hosts hosts(2);
    Server first(hosts, disk.path() + "/first");
    ASSERT_EQ(first.Start(), absl::OkStatus());
    std::map<std::string, std::string> said;
    for (int i = 0; i < 30; ++i) {
      if (i == 15) {
        ASSERT_EQ(first.Start(), absl::OkStatus());  // now there is a table
      }
      const std::string id = fmt::format("c{}", i % 3);
      const std::string text = fmt::format("t{}", i);
      ASSERT_EQ(first.Say(id, text), absl::OkStatus());
      said[id] += text + ";";
    }
    ASSERT_EQ(first.Erase({"", "c2"}), absl::OkStatus());
    said.erase("c2");
    ASSERT_EQ(first.Say("c0", "last"), absl::OkStatus());
    said["c0"] += "last;";
    first.Kill();
    DamageFiles(first.folder(), ways[way].first, ways[way].second);
    ASSERT_EQ(first.Start(), absl::OkStatus());
    EXPECT_EQ(first.read.damaged(), 0);
    EXPECT_TRUE(first.read.nameless.empty());
    EXPECT_EQ(first.found.size(), said.size());
    for (const auto& [id, text] : said) EXPECT_EQ(first.Said(id), text);
    // From then on it goes on as ever, and so does its copy.
    ASSERT_EQ(first.Say("c1", "on"), absl::OkStatus());
    said["c1"] += "on;";
    first.Kill();
    Server second(hosts, disk.path() + "/second");
    ASSERT_EQ(second.Start(), absl::OkStatus());
    EXPECT_TRUE(second.adopted);
    EXPECT_EQ(second.found.size(), said.size());
    for (const auto& [id, text] : said) EXPECT_EQ(second.Said(id), text);
  }
}

/// An older copy of the database alone, again and again.
TEST(StateRecovery, ADatabaseThatIsPutBackGetsWhatWasSaidAndNothingThatWasErased) {
  for (const bool copied : {true, false}) {
    SCOPED_TRACE(copied);
    TemporaryDirectory disk;
    Hosts hosts(2);
    Server server(hosts, disk.path() + "/state");
    ASSERT_EQ(server.Start("", copied), absl::OkStatus());
    for (const char* id : {"stays", "goes"}) {
      ASSERT_EQ(server.Say(id, fmt::format("text of {}", id)), absl::OkStatus());
    }
    std::string said = server.found.empty() ? "text of stays;" : "";
    const std::string backup = disk.path() + "/backup";
    testing::CopyAsOfAMoment(server.folder(), backup);
    ASSERT_EQ(server.Erase({"", "goes"}), absl::OkStatus());
    for (int round = 0; round < 4; ++round) {
      SCOPED_TRACE(round);
      ASSERT_EQ(server.Say("stays", fmt::format("{}", round)), absl::OkStatus());
      said += fmt::format("{};", round);
      server.Kill();
      fs::remove_all(server.folder());
      fs::copy(backup, server.folder(), fs::copy_options::recursive);
      ASSERT_EQ(server.Start("", copied), absl::OkStatus());
      EXPECT_FALSE(server.found.contains(ConversationName("", "goes")));
      EXPECT_EQ(server.read.nameless.size(), 0U);
      if (copied) {
        EXPECT_EQ(server.read.damaged(), 0);
        EXPECT_EQ(server.Said("stays"), said);
      } else {
        EXPECT_EQ(server.read.damaged(), 1);
        EXPECT_EQ(server.Said("stays"), "text of stays;");
      }
      for (int i = 0; i < 4000 && server.writer->Status().unfinished_erasures > 0; ++i) {
        std::this_thread::sleep_for(milliseconds(5));
      }
      EXPECT_EQ(server.writer->Status().unfinished_erasures, 0);
      EXPECT_EQ(FilesWith(server.path, "text of goes"), 0);
      for (const char* host : {"0", "1"}) {
        if (!fs::exists(hosts.FolderOf(host))) continue;
        EXPECT_EQ(FilesWith(hosts.FolderOf(host), "text of goes"), 0) << host;
      }
    }
  }
}

/// And of a copy that is older than a deletion, too.
TEST(StateRecovery, ACopyThatIsPutBackBringsNothingBackThatWasErased) {
  TemporaryDirectory disk;
  Hosts hosts(2);
  Server server(hosts, disk.path() + "/state");
  ASSERT_EQ(server.Start(), absl::OkStatus());
  ASSERT_EQ(server.Say("stays", "0"), absl::OkStatus());
  const std::string backup = disk.path() + "/backup";
  testing::CopyAsOfAMoment(server.folder(), backup);
  ASSERT_EQ(server.Say("goes", "text of goes"), absl::OkStatus());
  ASSERT_EQ(server.Say("stays", "1"), absl::OkStatus());
  const std::string copies = disk.path() + "/copies";
  testing::CopyAsOfAMoment(hosts.FolderOf("1"), copies);
  ASSERT_EQ(server.Erase({"", "goes"}), absl::OkStatus());
  ASSERT_EQ(server.Say("stays", "2"), absl::OkStatus());
  server.Kill();
  hosts.Kill("1");
  for (const auto& [from, to] :
       {std::pair(backup, server.folder()), std::pair(copies, hosts.FolderOf("1"))}) {
    fs::remove_all(to);
    fs::copy(from, to, fs::copy_options::recursive);
  }
  hosts.Start("1");
  ASSERT_EQ(server.Start(), absl::OkStatus());
  EXPECT_FALSE(server.found.contains(ConversationName("", "goes")));
  EXPECT_EQ(server.Said("stays"), "0;1;") << "what the copy has";
  EXPECT_EQ(server.read.damaged(), 1);
  EXPECT_EQ(FilesWith(server.path, "text of goes"), 0);
}

TEST(StateRecovery, WhatNoCopyHasIsToldAsDamage) {
  TemporaryDirectory disk;
  Hosts hosts(2);
  Server first(hosts, disk.path() + "/first");
  ASSERT_EQ(first.Start(), absl::OkStatus());
  ASSERT_EQ(first.Say("c", "copied"), absl::OkStatus());
  hosts.Cut(true);
  EXPECT_FALSE(first.Say("c", "here only").ok());
  first.Kill();
  DamageFiles(first.folder(), ".log", [](const fs::path& file) { fs::remove(file); });
  ASSERT_EQ(first.Start(), absl::OkStatus());
  EXPECT_EQ(first.read.damaged(), 1);
  EXPECT_EQ(first.Said("c"), "copied;");
}

TEST(StateRecovery, ACopyThatWentOnIsPutAsideWhenThatIsChosen) {
  TemporaryDirectory disk;
  Hosts hosts(2);
  Server first(hosts, disk.path() + "/first");
  ASSERT_EQ(first.Start(), absl::OkStatus());
  ASSERT_EQ(first.Say("c", "both"), absl::OkStatus());
  first.Kill();
  Server second(hosts, disk.path() + "/second");
  ASSERT_EQ(second.Start(), absl::OkStatus());
  ASSERT_EQ(second.Say("c", "second"), absl::OkStatus());
  second.Kill();
  ASSERT_TRUE(absl::IsFailedPrecondition(first.Start()));
  ASSERT_EQ(first.Start("own"), absl::OkStatus());
  EXPECT_EQ(first.Said("c"), "both;");
  EXPECT_EQ(first.Say("c", "first"), absl::OkStatus());
  ASSERT_EQ(first.Start(), absl::OkStatus());
  EXPECT_EQ(first.Said("c"), "both;first;");
  EXPECT_TRUE(fs::exists(hosts.FolderOf("1") + "/" + StateIdText(first.state) + ".aside-1"));
  // Now it is the second that is told.
  EXPECT_TRUE(absl::IsFailedPrecondition(second.Start()));
}

TEST(StateRecovery, AServerThatLivesOnIsNotAcknowledgedAnyMore) {
  TemporaryDirectory disk;
  Hosts hosts(2);
  Server first(hosts, disk.path() + "/first");
  ASSERT_EQ(first.Start(), absl::OkStatus());
  ASSERT_EQ(first.Say("c", "both"), absl::OkStatus());
  Server second(hosts, disk.path() + "/second");
  ASSERT_EQ(second.Start(), absl::OkStatus());
  ASSERT_EQ(second.Say("c", "second"), absl::OkStatus());
  const absl::Status said = first.Say("c", "first");
  EXPECT_FALSE(said.ok());
  EXPECT_THAT(first.writer->Status().trouble, HasSubstr("went on with these conversations"));
  ASSERT_EQ(second.Start(), absl::OkStatus());
  EXPECT_EQ(second.Said("c"), "both;second;");
  // What it said is not lost: it is on its own disk.
  first.writer.reset();
  EXPECT_TRUE(absl::IsFailedPrecondition(first.Start()));
  ASSERT_EQ(first.Start("own", /*copied=*/false), absl::OkStatus());
  EXPECT_EQ(first.Said("c"), "both;first;");
}

TEST(StateRecovery, AServerThatIsThereKeepsItsCopy) {
  TemporaryDirectory disk;
  Hosts hosts(2, milliseconds(600'000));
  Server first(hosts, disk.path() + "/first");
  ASSERT_EQ(first.Start(), absl::OkStatus());
  ASSERT_EQ(first.Say("c", "text"), absl::OkStatus());
  Server second(hosts, disk.path() + "/second");
  const absl::Status refused = second.Start();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused));
  EXPECT_THAT(Message(refused), HasSubstr("is still there"));
  ASSERT_EQ(second.Start("own", /*copied=*/false), absl::OkStatus());
  EXPECT_TRUE(second.found.empty());
}

TEST(StateRecovery, WhichOfSeveralIsAsked) {
  TemporaryDirectory disk;
  Hosts hosts(2);
  std::vector<std::string> ids;
  for (const std::string name : {"a", "b"}) {
    Server server(hosts, disk.path() + "/" + name);
    ASSERT_EQ(server.Start("own"), absl::OkStatus());
    ASSERT_EQ(server.Say("c", name), absl::OkStatus());
    ids.push_back(StateIdText(server.state));
  }
  Server third(hosts, disk.path() + "/third");
  const absl::Status refused = third.Start();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused));
  for (const std::string& id : ids) EXPECT_THAT(Message(refused), HasSubstr(id));
  EXPECT_FALSE(fs::exists(third.folder()));
  EXPECT_TRUE(absl::IsFailedPrecondition(third.Start(std::string(32, '0'))));
  EXPECT_TRUE(absl::IsFailedPrecondition(third.Start(ids[0] + "@0")));
  ASSERT_EQ(third.Start(ids[1]), absl::OkStatus());
  EXPECT_EQ(third.Said("c"), "b;");
}

TEST(StateRecovery, WhatIsDeletedIsInNoCopyEither) {
  TemporaryDirectory disk;
  Hosts hosts(3);
  Server server(hosts, disk.path() + "/s");
  ASSERT_EQ(server.Start(), absl::OkStatus());
  ASSERT_EQ(server.Say("c", "secret"), absl::OkStatus());
  ASSERT_EQ(server.Say("d", "other"), absl::OkStatus());
  hosts.Between([&] {
    hosts.Kill("1");
    hosts.keeper = "2";
  });
  ASSERT_TRUE(server.WaitUntilCopied("2"));
  hosts.Between([&] { hosts.Start("1"); });  // with a copy that is behind
  ASSERT_EQ(server.Say("d", "more"), absl::OkStatus());
  EXPECT_GT(FilesWith(hosts.FolderOf("1"), "secret"), 0);
  EXPECT_GT(FilesWith(hosts.FolderOf("2"), "secret"), 0);
  ASSERT_EQ(server.Erase({"", "c"}), absl::OkStatus());
  for (const std::string& folder : {hosts.FolderOf("1"), hosts.FolderOf("2"), server.path}) {
    EXPECT_EQ(FilesWith(folder, "secret"), 0) << folder;
  }
  EXPECT_GT(FilesWith(hosts.FolderOf("2"), "other"), 0);
  // While the copy cannot be reached, it is not finished.
  hosts.Between([&] { hosts.Kill("2"); });
  EXPECT_FALSE(server.Erase({"", "d"}).ok());
  EXPECT_EQ(server.writer->Status().unfinished_erasures, 1);
  EXPECT_EQ(FilesWith(server.path, "other"), 0);
  hosts.Between([&] { hosts.Start("2"); });
  for (int i = 0; i < 1000 && server.writer->Status().unfinished_erasures > 0; ++i) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_EQ(server.writer->Status().unfinished_erasures, 0);
  EXPECT_EQ(FilesWith(hosts.FolderOf("2"), "other"), 0);
}

TEST(StateRecovery, AnOlderCopyIsNotTakenForTheOneThatHasAll) {
  TemporaryDirectory disk;
  Hosts hosts(3);
  Server server(hosts, disk.path() + "/s");
  server.tidy = milliseconds(0);
  ASSERT_EQ(server.Start(), absl::OkStatus());
  ASSERT_EQ(server.Say("c", "older"), absl::OkStatus());
  hosts.Between([&] {
    hosts.Kill("1");
    hosts.keeper = "2";
  });
  ASSERT_TRUE(server.WaitUntilCopied("2"));
  ASSERT_EQ(server.Say("c", "newer"), absl::OkStatus());
  hosts.Between([&] { hosts.Start("1"); });
  int left = 1;
  for (int i = 0; i < 1000 && left > 0; ++i) {
    std::this_thread::sleep_for(milliseconds(10));
    hosts.Between([&] { left = FilesWith(hosts.FolderOf("1"), "older"); });
  }
  EXPECT_EQ(left, 0);
  server.Kill();
  fs::remove_all(server.path);
  // The one that has all is away: that is told, and nothing is begun instead.
  hosts.Between([&] { hosts.Kill("2"); });
  Server next(hosts, disk.path() + "/next");
  const absl::Status refused = next.Start();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused));
  EXPECT_THAT(Message(refused), HasSubstr("went on elsewhere"));
  hosts.Between([&] { hosts.Start("2"); });
  ASSERT_EQ(next.Start(), absl::OkStatus());
  EXPECT_EQ(next.Said("c"), "older;newer;");
}

TEST(StateRecovery, ACopyThatIsAwayIsToldAndCaughtUpWith) {
  TemporaryDirectory disk;
  Hosts hosts(2);
  Server server(hosts, disk.path() + "/s");
  ASSERT_EQ(server.Start(), absl::OkStatus());
  ASSERT_EQ(server.Say("c", "1"), absl::OkStatus());
  hosts.Between([&] { hosts.Kill("1"); });
  EXPECT_FALSE(server.Say("c", "2").ok());
  EXPECT_FALSE(server.Say("c", "3").ok());
  EXPECT_THAT(server.writer->Status().trouble, ::testing::Not(::testing::IsEmpty()));
  hosts.Between([&] { hosts.Start("1"); });
  ASSERT_TRUE(server.WaitUntilCopied());
  EXPECT_EQ(server.Say("c", "4"), absl::OkStatus());
  // More than the queue has room for.
  hosts.Between([&] { hosts.Kill("1"); });
  for (int i = 0; i < 40; ++i) EXPECT_FALSE(server.Say("c", std::string(1000, 'x')).ok());
  hosts.Between([&] { hosts.Start("1"); });
  ASSERT_TRUE(server.WaitUntilCopied());
  server.Kill();
  fs::remove_all(server.path);
  Server next(hosts, disk.path() + "/next");
  ASSERT_EQ(next.Start(), absl::OkStatus());
  EXPECT_EQ(next.found[ConversationName("", "c")].messages.size(), 44U);
}

/// Hundreds of random changes and faults beside a map: whatever was acknowledged is there, also
/// when a host goes on with a copy.
TEST(StateRecovery, NothingAcknowledgedIsEverLost) {
  spdlog::set_level(spdlog::level::off);
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    TemporaryDirectory disk;
    Hosts hosts(3);
    RandomConversations random(seed);
    int servers = 0;
    const milliseconds tidy(seed == 1 ? 10'000 : 0);
    auto server = std::make_unique<Server>(hosts, disk.path() + "/0");
    server->tidy = tidy;
    ASSERT_EQ(server->Start(), absl::OkStatus());
    // What may be there: what was acknowledged, and what was said since.
    std::vector<Found> possible(1);
    int adoptions = 0;
    const auto check = [&](const std::vector<Found>& any) -> Found {
      const auto same = [&](const Found& model) {
        return server->found.size() == model.size() &&
               std::equal(model.begin(), model.end(), server->found.begin(),
                          [](const auto& a, const auto& b) {
                            return a.first == b.first && Same(a.second, b.second);
                          });
      };
      const auto found = std::find_if(any.begin(), any.end(), same);
      EXPECT_NE(found, any.end()) << "seed " << seed << ", one of " << any.size();
      return found == any.end() ? Found() : *found;
    };
    for (int step = 0; step < 250; ++step) {
      const uint64_t dice = random.Below(40);
      Found next = possible.back();
      if (dice < 28) {
        const ConversationName name{"", fmt::format("c{}", random.Below(5))};
        const Conversation after = random.Next(next[name]);
        ConversationDelta delta = RandomConversations::Delta(next[name], after);
        next[name] = after;
        const bool told = server->Append(name, std::move(delta)).ok();
        if (told) possible.clear();
        possible.push_back(std::move(next));
      } else if (dice < 31) {
        const ConversationName name{"", fmt::format("c{}", random.Below(5))};
        next.erase(name);
        const bool told = server->Erase(name).ok();
        if (told) possible.clear();
        possible.push_back(std::move(next));
      } else if (dice < 33) {
        const std::string host = std::to_string(1 + random.Below(2));
        hosts.Between([&] {
          if (hosts.Runs(host)) hosts.Kill(host);
          if (random.Below(3) > 0) hosts.Start(host);
        });
      } else if (dice < 35) {
        hosts.Between([&] { hosts.keeper = std::to_string(1 + random.Below(2)); });
      } else if (dice < 37) {
        hosts.LoseOne(static_cast<int>(random.Below(6)), random.Below(2) == 0);
      } else if (dice < 38) {
        server->Kill();
        hosts.LoseNone();
        ASSERT_EQ(server->Start(), absl::OkStatus()) << "seed " << seed << ", step " << step;
        // Its own disk has all that was said; copies need not.
        check({possible.back()});
      } else {
        // The host is lost; the others' agents are there again, and another goes on.
        hosts.Between([&] {
          for (const std::string host : {"1", "2"}) {
            if (!hosts.Runs(host)) hosts.Start(host);
          }
        });
        hosts.LoseNone();
        server->Kill();
        fs::remove_all(server->path);
        hosts.Between([&] {
          hosts.Kill("0");
          fs::remove_all(hosts.FolderOf("0"));
          hosts.Start("0");
        });
        server = std::make_unique<Server>(hosts, fmt::format("{}/{}", disk.path(), ++servers));
        server->tidy = tidy;
        ASSERT_EQ(server->Start(), absl::OkStatus()) << "seed " << seed << ", step " << step;
        adoptions += server->adopted ? 1 : 0;
        possible = {check(possible)};
      }
      if (HasFailure()) return;
    }
    EXPECT_GT(adoptions, 3);
  }
  spdlog::set_level(spdlog::level::info);
}

}  // namespace
}  // namespace tandem::launcher
