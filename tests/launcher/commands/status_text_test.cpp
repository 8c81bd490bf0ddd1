#include "launcher/commands/status_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace tandem::launcher {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

json Document() {
  return json::parse(R"json({
    "v": 1, "type": "status",
    "model": {"name": "small", "vocab": 100, "context": 8192},
    "ranks": [{"rank": 0, "host": "a", "device": "cpu (avx2, 2 threads)", "weight_bytes": 1048576,
               "reduce_seconds": 12.34},
              {"rank": 1, "host": "long-name", "device": "cpu (avx512, 1 thread)",
               "weight_bytes": 104857600, "weights_mapped": true}],
    "requests": {"running": 3, "waiting": 4, "open": 7, "answered": 50, "cancelled": 6, "failed": 1},
    "pages": {"total": 100, "used": 25, "cached": 50},
    "reuse": {"prompt_tokens": 400, "reused_tokens": 100,
              "reused_from": {"device": 40, "host": 0, "disk": 9, "remote": 51}},
    "speculation": {"drafted_tokens": 10, "accepted_tokens": 9},
    "rates": {"tokens_per_second": 123.4},
    "totals": {"steps": 11, "tokens_generated": 1000, "tokens_prefilled": 5000, "preemptions": 2},
    "clients": 5, "refused_frames": 0, "uptime_seconds": 3723.9
  })json");
}

TEST(StatusTextTest, TellsEveryFigure) {
  EXPECT_EQ(StatusText(Document()),
            "small: context 8192, up 1 h 2 min\n"
            "  rank  host       device                            weights  all-reduce\n"
            "     0  a          cpu (avx2, 2 threads)             1.0 MiB      12.3 s\n"
            "     1  long-name  cpu (avx512, 1 thread)  100.0 MiB, mapped           ?\n"
            "requests   3 running, 4 waiting; 50 answered, 6 cancelled, 1 failed\n"
            "clients    5 connected; 0 frames refused\n"
            "pages      25 used, 50 cached, of 100  "
            "[##########--------------------          ]\n"
            "preempted  2 times\n"
            "reused     100 of 400 prompt tokens, 25 %\n"
            "           40 from the device, 9 from disk, 51 from other hosts\n"
            "drafts     9 of 10 tokens accepted, 90 %\n"
            "tokens     1000 generated, 5000 read, in 11 steps\n"
            "tokens/s   123 generated\n");
}

TEST(StatusTextTest, TellsOfRanksThatWereStartedAgain) {
  json document = Document();
  document["recovery"] = {{"epoch", 1},           {"down", false}, {"down_seconds", 0},
                          {"reason", nullptr},    {"restarts", 0}, {"lost_seconds", 0},
                          {"last", json::array()}};
  EXPECT_THAT(StatusText(document), Not(HasSubstr("epoch")));
  document["recovery"].update({{"epoch", 3}, {"restarts", 2}, {"lost_seconds", 4.25}});
  document["recovery"]["reason"] = "rank 1 on host n1 died";
  EXPECT_THAT(
      StatusText(document),
      HasSubstr("\nepoch      3: 2 restarts, in 4.2 s; the last one: rank 1 on host n1 died\n"));
  document["recovery"].update({{"down", true}, {"down_seconds", 70.0}});
  EXPECT_THAT(StatusText(document),
              HasSubstr("\nepoch      3: the ranks are being started again, for 1 min 10 s so far: "
                        "rank 1 on host n1 died\n"));
}

TEST(StatusTextTest, TellsOfTheStateDirectoryAndItsTrouble) {
  json document = Document();
  document["state"] = {{"directory", "/var/state"}, {"encrypted", true},
                       {"conversations", 12},       {"unreadable", 0},
                       {"unwritten_changes", 0},    {"unfinished_erasures", 0},
                       {"trouble", nullptr}};
  EXPECT_THAT(StatusText(document),
              HasSubstr("state      12 conversations in /var/state, encrypted\npages"));
  EXPECT_THAT(StatusText(document), Not(HasSubstr("\nkv ")));
  document["records"] = {
      {"saved", 10}, {"fetched", 5}, {"damaged", 1}, {"dropped", 2}, {"refused", 3}};
  EXPECT_THAT(StatusText(document),
              HasSubstr("\nkv         10 records saved, 5 fetched, 1 damaged, 5 not saved\n"));
  document["state"]["unreadable"] = 2;
  document["state"]["unwritten_changes"] = 3;
  document["state"]["trouble"] = "the disk is full";
  EXPECT_THAT(StatusText(document),
              HasSubstr("           2 conversations on disk cannot be read; the log names them\n"
                        "           3 changes are in memory only\n"
                        "           not durable: the disk is full\npages"));
}

TEST(StatusTextTest, TellsOfTheGatewayForHttp) {
  json document = Document();
  document["http"] = {{"address", "127.0.0.1:8080"}, {"connections", 2}, {"requests", 1}};
  EXPECT_THAT(StatusText(document),
              HasSubstr("clients    5 connected; 0 frames refused\n"
                        "           2 connections over HTTP at 127.0.0.1:8080; 1 request answered\n"
                        "pages "));
}

TEST(StatusTextTest, ARankAloneAddsUpNothing) {
  json document = Document();
  document["ranks"].erase(1);
  EXPECT_THAT(StatusText(document), Not(HasSubstr("all-reduce")));
}

TEST(StatusTextTest, TellsOfTheHostTier) {
  json document = Document();
  document["host_tier"] = {{"bytes_limit", 4 << 20},   {"bytes", 1 << 20}, {"spilled", 3},
                           {"spilled_bytes", 5 << 20}, {"returned", 2},    {"returned_bytes", 9}};
  EXPECT_THAT(
      StatusText(document),
      HasSubstr("preempted  2 times\n"
                "           3 times to the host tier, 2 back; 1.0 MiB of 4.0 MiB are there\n"
                "reused "));
}

TEST(StatusTextTest, TellsWhyFramesWereRefused) {
  json document = Document();
  document["refused_frames"] = 3;
  document["refused"] = {{"too_large", 1}, {"unimplemented", 2}, {"overloaded", 0}, {"\033", 7}};
  document["unknown_fields"] = 1;
  EXPECT_THAT(StatusText(document),
              HasSubstr("clients    5 connected; 3 frames refused (1 too_large, 2 unimplemented)\n"
                        "           1 field that nobody knows, in requests; the log names it\n"));
}

TEST(StatusTextTest, OneIsNoPlural) {
  json document = Document().flatten();
  for (auto& [place, value] : document.items()) {
    if (value.is_number()) value = 1;
  }
  document = document.unflatten();
  document["refused_frames"] = document["unknown_fields"] = 1;
  document["state"] = {{"directory", "d"},
                       {"conversations", 1},
                       {"unreadable", 1},
                       {"unwritten_changes", 1},
                       {"unfinished_erasures", 1},
                       {"trouble", nullptr},
                       {"copied", {{"host", "h"}, {"uncopied_changes", 1}}}};
  document["records"] = {
      {"saved", 1}, {"fetched", 1}, {"damaged", 1}, {"dropped", 0}, {"refused", 1}};
  document["http"] = {{"address", "a"}, {"connections", 1}, {"requests", 1}};
  EXPECT_THAT(
      StatusText(document),
      Not(::testing::ContainsRegex("[^0-9]1 (prompt )?(connection|conversation|change|deletion|"
                                   "frame|request|field|time|token|record|step)s")));
}

TEST(StatusTextTest, RatesAreOfTheTimeBetween) {
  const json previous = Document();
  json now = Document();
  now["uptime_seconds"] = 3725.9;
  now["totals"]["tokens_generated"] = 1500;
  now["totals"]["tokens_prefilled"] = 7000;
  EXPECT_THAT(StatusText(now, &previous), HasSubstr("tokens/s   250 generated, 1000 read\n"));
  // Another server behind the same endpoint counts from 0.
  now["totals"]["tokens_generated"] = 10;
  EXPECT_THAT(StatusText(now, &previous), HasSubstr("tokens/s   ? generated, 1000 read\n"));
  now["uptime_seconds"] = 1;
  EXPECT_THAT(StatusText(now, &previous), HasSubstr("tokens/s   ? generated\n"));
}

TEST(StatusTextTest, NothingThatAServerSendsIsTooStrange) {
  EXPECT_THAT(StatusText(json::object()), HasSubstr("requests   ? running, ? waiting;"));
  EXPECT_THAT(StatusText(json::array()), HasSubstr("no status document"));
  const json whole = Document(), places = whole.flatten();
  // Every place holds something of another type once.
  for (const auto& [name, value] : places.items()) {
    for (const json& strange :
         {json("\033[2Jx\n"), json(), json::array({1}), json::object(), json(-1e300), json(true)}) {
      json document = Document();
      document[json::json_pointer(name)] = strange;
      const std::string text = StatusText(document);
      EXPECT_THAT(text, Not(HasSubstr("\033"))) << name;
      EXPECT_THAT(text, HasSubstr("tokens/s")) << name;
    }
  }
  for (const auto& [name, value] : whole.items()) {
    for (const json& strange : {json("word"), json(), json::array({1, "x"}), json(7)}) {
      json document = Document();
      document[name] = strange;
      EXPECT_THAT(StatusText(document), HasSubstr("tokens/s")) << name;
    }
  }
}

TEST(StatusTextTest, PagesBeyondTheirTotalDoNotOverflowTheBar) {
  json document = Document();
  document["pages"] = {{"total", 10}, {"used", 8}, {"cached", 50}};
  EXPECT_THAT(StatusText(document), HasSubstr("[################################--------]\n"));
  document["pages"] = {{"total", 0}, {"used", 0}, {"cached", 0}};
  EXPECT_THAT(StatusText(document), HasSubstr("pages      0 used, 0 cached, of 0\n"));
}

TEST(FitTerminalTest, CutsLinesAndColumnsButNoCharacter) {
  EXPECT_EQ(FitTerminal("abcdef\nxy\nlast\n", 4, 10), "abcd\nxy\nlast\n");
  EXPECT_EQ(FitTerminal("abcdef\nxy\nlast\n", 4, 2), "abcd\nxy");
  EXPECT_EQ(FitTerminal("äöüß\n", 3, 5), "äöü\n");
  EXPECT_EQ(FitTerminal("", 3, 5), "");
}

}  // namespace
}  // namespace tandem::launcher
