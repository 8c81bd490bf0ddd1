#include "frontend/http/text_worker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <mutex>
#include <string>
#include <vector>

namespace tandem::frontend {
namespace {

using ::testing::ElementsAre;

TEST(TextWorker, LetsClientsShareByBytes) {
  TextWorker worker(1000);
  std::promise<void> begin;
  std::promise<void> end;
  std::vector<std::string> done;
  ASSERT_TRUE(worker.Do(9, 1, [&] { begin.get_future().wait(); }));
  const auto add = [&](uint64_t client, int64_t bytes, const std::string& name) {
    ASSERT_TRUE(worker.Do(client, bytes, [&done, name] { done.push_back(name); }));
  };
  add(1, 300, "long 1");
  add(1, 300, "long 2");
  add(2, 10, "short");
  add(1, 1, "behind its own");
  add(3, 250, "long of another");
  add(2, 10, "short again");
  ASSERT_TRUE(worker.Do(4, 100, [] {}));
  EXPECT_FALSE(worker.Do(5, 500, [] {})) << "too much waits";
  ASSERT_TRUE(worker.Do(1, 1, [&] { end.set_value(); }));
  begin.set_value();
  end.get_future().wait();
  EXPECT_THAT(done, ElementsAre("short", "short again", "long of another", "long 1", "long 2",
                                "behind its own"));
}

TEST(TextWorker, TakesOneTextHoweverLong) {
  TextWorker worker(10);
  std::promise<void> begin;
  ASSERT_TRUE(worker.Do(1, 1000, [&] { begin.get_future().wait(); }));
  EXPECT_FALSE(worker.Do(1, 1, [] {}));
  begin.set_value();
}

}  // namespace
}  // namespace tandem::frontend
