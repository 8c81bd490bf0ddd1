#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "frontend/conversations/conversation_store.h"
#include "tests/support/disk_image.h"
#include "tests/support/random_conversations.h"
#include "tests/support/temporary_directory.h"

namespace tandem::testing {

using Said = std::map<frontend::ConversationName, frontend::Conversation>;

inline std::string ContentOf(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// A folder with a store and its witness, and what was said.
class KeptStore {
 public:
  std::string folder() const { return temporary_.path() + "/conversations"; }
  std::string path() const { return temporary_.path(); }
  std::string witness() const { return frontend::ConversationStore::WitnessPath(folder()); }

  frontend::FoundConversations Open() {
    store.reset();
    auto opened = frontend::ConversationStore::Open({.folder = folder(), .box = box});
    EXPECT_TRUE(opened.ok()) << opened.status();
    if (!opened.ok()) return {};
    store = std::move(opened->store);
    return std::move(opened->found);
  }
  void Say(const frontend::ConversationName& name, const frontend::Conversation& before,
           const frontend::Conversation& after) {
    const frontend::ConversationStore::Change change =
        frontend::ConversationStore::Turn{name, RandomConversations::Delta(before, after)};
    ASSERT_TRUE(store->Write({&change, 1}).ok());
  }
  void SayOneMore(Said& said, RandomConversations& random) {
    for (const char* id : {"a", "b", "c"}) {
      frontend::Conversation& one = said[{"t", id}];
      const frontend::Conversation after = random.Next(one);
      Say({"t", id}, one, after);
      one = after;
    }
  }
  void Erase(const frontend::ConversationName& name) {
    const frontend::ConversationStore::Change change =
        frontend::ConversationStore::Erasure{name, {}};
    ASSERT_TRUE(store->Write({&change, 1}).ok());
    ASSERT_EQ(store->FinishErasures(nullptr), absl::OkStatus());
  }
  /// As a kill -9 would leave it, in another place.
  void CopyTo(KeptStore& other) const { CopyAsOfAMoment(path(), other.path()); }

  std::vector<std::filesystem::path> Files() const {
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path())) {
      if (entry.is_regular_file() && entry.path().filename() != "LOCK") {
        files.push_back(std::filesystem::relative(entry.path(), path()));
      }
    }
    return files;
  }

  std::unique_ptr<frontend::ConversationStore> store;
  const kv_store::EncryptedBox* box = nullptr;

 private:
  TemporaryDirectory temporary_;
};

}  // namespace tandem::testing
