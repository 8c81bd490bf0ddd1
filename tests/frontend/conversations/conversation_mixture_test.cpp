#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "frontend/conversations/conversation_store.h"
#include "tests/support/kept_store.h"

/// Files of several times of a state directory, copied over each other.
namespace tandem::frontend {
namespace {

namespace fs = std::filesystem;
using testing::KeptStore;
using testing::RandomConversations;
using testing::Said;
using testing::TemporaryDirectory;

constexpr const char* kIds[] = {"a", "b", "c", "d", "e"};

TEST(ConversationMixture, OfTwoTimesIsOpened) {
  for (uint64_t seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE(seed);
    RandomConversations random(seed);
    KeptStore kept;
    kept.Open();
    Said said;
    TemporaryDirectory backups;
    std::vector<std::string> copies;
    const auto act = [&] {
      const ConversationName name{"t", kIds[random.Below(std::size(kIds))]};
      switch (random.Below(8)) {
        case 0:
          if (said.contains(name)) {
            kept.Erase(name);
            said.erase(name);
          }
          break;
        case 1:
          kept.Open();
          break;
        case 2:
          copies.push_back(fmt::format("{}/{}", backups.path(), copies.size()));
          testing::CopyAsOfAMoment(kept.folder(), copies.back());
          break;
        default: {
          Conversation& one = said[name];
          const Conversation after = random.Next(one);
          const ConversationStore::Change change = ConversationStore::Turn{
              name, one.damaged ? DeltaOf(after) : RandomConversations::Delta(one, after)};
          ASSERT_TRUE(kept.store->Write({&change, 1}).ok());
          one = after;
          one.damaged = false;
        }
      }
    };
    for (int round = 0; round < 4; ++round) {
      for (int i = 0; i < 12; ++i) act();
      if (copies.empty()) continue;
      kept.store.reset();
      fs::copy(copies[random.Below(copies.size())], kept.folder(),
               fs::copy_options::recursive | fs::copy_options::overwrite_existing);
      for (int restart = 0; restart < 2; ++restart) {
        said.clear();
        for (auto& [name, one] : kept.Open().conversations) said[name] = std::move(one);
        ASSERT_NE(kept.store, nullptr);
      }
    }
  }
}

}  // namespace
}  // namespace tandem::frontend
