#include "parallel/communicators/gather_messages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "parallel/communicators/one_rank_communicator.h"
#include "parallel/communicators/thread_communicator.h"
#include "tests/parallel/communicators/thread_ranks.h"

namespace tandem::parallel {

struct GatheredText {
  std::string text;
};
template <typename Archive>
void Fields(Archive& archive, GatheredText& message) {
  archive(core::AtMost(message.text, 2 << 20, "bytes of text"));
  archive.Require(message.text != "bad", "a bad text");
}

namespace {

using ::testing::HasSubstr;

TEST(GatherMessages, EveryoneGetsEveryonesHoweverLong) {
  const auto statuses = RunRanks(MakeThreadWorld(3), [](Communicator& world) -> absl::Status {
    const GatheredText mine{std::string(static_cast<size_t>(world.rank()) * 1000, 'x')};
    TANDEM_ASSIGN_OR_RETURN(const auto all, GatherMessages(world, mine));
    for (size_t rank = 0; rank < 3; ++rank) EXPECT_EQ(all.at(rank).text.size(), rank * 1000);
    return absl::OkStatus();
  });
  for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
  OneRankCommunicator alone;
  EXPECT_EQ(GatherMessages(alone, GatheredText{"alone"})->front().text, "alone");
}

TEST(GatherMessages, NamesTheRankWhoseMessageIsNone) {
  for (const auto& [text, expected] :
       {std::pair<std::string, std::string>("bad", "what rank 1 on host n1 says: a bad text"),
        {std::string((1 << 20) + 1, 'x'), "what rank 1 on host n1 says takes 1048581 bytes"}}) {
    const auto statuses =
        RunRanks(MakeThreadWorld(2, {.hosts = {"n0", "n1"}}), [&](Communicator& world) {
          return GatherMessages(world, GatheredText{world.rank() == 1 ? text : ""}).status();
        });
    for (const absl::Status& status : statuses) EXPECT_THAT(Message(status), HasSubstr(expected));
  }
}

}  // namespace
}  // namespace tandem::parallel
