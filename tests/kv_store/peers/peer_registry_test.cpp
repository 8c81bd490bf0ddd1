#include "kv_store/peers/peer_registry.h"

#include <gtest/gtest.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "tests/support/temporary_directory.h"

namespace tandem::kv_store {
namespace {

using testing::TemporaryDirectory;

PeerRegistry MustOpen(const std::string& folder) {
  std::filesystem::create_directories(folder);
  auto registry = PeerRegistry::Open(folder);
  EXPECT_TRUE(registry.ok()) << registry.status();
  return *std::move(registry);
}

TEST(PeerRegistry, KeepsWhomItWasTold) {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/here";
  const AgentPeer a{
      .host = "a", .endpoint = "tcp://10.0.0.1:1", .public_key = MakeCurveKeys().public_key};
  const AgentPeer b{.host = "b.c-d",
                    .endpoint = "tcp://[fd00::1]:65535",
                    .public_key = MakeCurveKeys().public_key};
  std::string key;
  {
    const PeerRegistry registry = MustOpen(path);
    key = registry.keys().public_key;
    EXPECT_EQ(registry.host(), "here");
    EXPECT_TRUE(registry.Peers().empty());
    EXPECT_FALSE(registry.ReadListens().has_value());
    ASSERT_TRUE(registry
                    .SetPeers({{.peer = a, .in_job = false, .met = 7},
                               {.peer = b, .in_job = true, .met = 5}})
                    .ok());
    ASSERT_TRUE(registry.WriteListens({.endpoint = "tcp://10.0.0.3:5", .copies = 2}).ok());
  }
  const PeerRegistry registry = MustOpen(path);
  EXPECT_EQ(registry.keys().public_key, key);
  struct stat facts {};
  ASSERT_EQ(stat((path + "/agent.key").c_str(), &facts), 0);
  EXPECT_EQ(facts.st_mode & 07777U, 0600U);
  const auto peers = registry.Peers();
  ASSERT_EQ(peers.size(), 2U);
  EXPECT_EQ(peers[0].peer, b);
  EXPECT_TRUE(peers[0].in_job);
  EXPECT_EQ(peers[1].peer, a);
  EXPECT_EQ(peers[1].met, 7);
  EXPECT_EQ(registry.ReadListens()->copies, 2U);
  ASSERT_TRUE(registry.SetPeers({{.peer = b, .in_job = true, .met = 5}}).ok());
  EXPECT_EQ(registry.Peers().size(), 1U);
}

TEST(PeerRegistry, LeavesOutWhatIsDamaged) {
  spdlog::set_level(spdlog::level::off);
  const TemporaryDirectory directory;
  const PeerRegistry registry = MustOpen(directory.path() + "/here");
  const std::string key = MakeCurveKeys().public_key;
  ASSERT_TRUE(
      registry
          .SetPeers({{.peer = {.host = "a", .endpoint = "tcp://10.0.0.1:1", .public_key = key}}})
          .ok());
  std::string whole;
  {
    std::ifstream file(registry.PathOf("a"));
    whole.assign(std::istreambuf_iterator<char>(file), {});
  }
  ASSERT_FALSE(whole.empty());
  const auto count_with = [&](const std::string& text) {
    std::ofstream(registry.PathOf("a"), std::ios::trunc) << text;
    return registry.Peers().size();
  };
  EXPECT_EQ(count_with(whole), 1U);
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_EQ(count_with(whole.substr(0, size)), 0U) << size;
  }
  EXPECT_EQ(count_with(whole + "more\n"), 0U);
  EXPECT_EQ(count_with(whole + "m"), 0U);
  EXPECT_EQ(count_with(std::string(1 << 20, 'x')), 0U);
  std::string other = whole;
  other.replace(other.find("tcp://"), 6, "ipc://");
  EXPECT_EQ(count_with(other), 0U);
  spdlog::set_level(spdlog::level::info);
}

TEST(PeerRegistry, FoldersInThePlaceOfItsFilesArePutAside) {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/here";
  const auto obstruct = [&path](const std::string& name) {
    std::filesystem::remove_all(path + "/" + name);
    std::filesystem::create_directories(path + "/" + name);
    std::ofstream(path + "/" + name + "/mine") << "mine";
  };
  obstruct("agent.key");
  std::ofstream(path + "/peers") << "mine";
  const PeerRegistry registry = MustOpen(path);
  obstruct("listens");
  obstruct("peers/a");
  obstruct("peers/b");
  EXPECT_TRUE(registry.Peers().empty());
  EXPECT_FALSE(registry.ReadListens().has_value());
  const AgentPeer a{
      .host = "a", .endpoint = "tcp://10.0.0.1:1", .public_key = MakeCurveKeys().public_key};
  EXPECT_EQ(registry.SetPeers({{.peer = a}}), absl::OkStatus());
  EXPECT_EQ(registry.WriteListens({.endpoint = "tcp://10.0.0.3:5"}), absl::OkStatus());
  EXPECT_EQ(registry.Peers().size(), 1U);
  EXPECT_TRUE(registry.ReadListens().has_value());
  EXPECT_EQ(MustOpen(path).keys().public_key, registry.keys().public_key);
  for (const char* name : {"agent.key.damaged-1/mine", "peers.damaged-1", "listens.damaged-1/mine",
                           "peers.a.damaged-1/mine", "peers/b/mine"}) {
    EXPECT_TRUE(std::filesystem::exists(path + "/" + name)) << name;
  }
}

TEST(PeerRegistry, IsBounded) {
  const TemporaryDirectory directory;
  const PeerRegistry registry = MustOpen(directory.path() + "/here");
  const std::string key = MakeCurveKeys().public_key;
  std::vector<KnownPeer> many;
  for (int i = 0; i < 1100; ++i) {
    many.push_back(
        {.peer = {.host = fmt::format("h{}", i), .endpoint = "tcp://10.0.0.1:1", .public_key = key},
         .in_job = i == 3,
         .met = i});
  }
  ASSERT_TRUE(registry.SetPeers(many).ok());
  const auto kept = registry.Peers();
  ASSERT_EQ(kept.size(), kMostAgentPeers);
  EXPECT_EQ(kept[0].peer.host, "h3");
  EXPECT_EQ(kept[1].peer.host, "h1099");
  EXPECT_EQ(kept.back().peer.host, "h77");
}

}  // namespace
}  // namespace tandem::kv_store
