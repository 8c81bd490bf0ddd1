#include "launcher/options/config_file.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace tandem::launcher {
namespace {

using Words = std::vector<std::string>;

/// "section.key=word|word" of each key.
Words Parsed(const std::string& text) {
  const auto entries = ParseConfig(text);
  EXPECT_TRUE(entries.ok()) << Message(entries.status());
  Words all;
  for (const ConfigEntry& entry : *entries) {
    if (entry.key.empty()) continue;
    std::string line = entry.name() + "=";
    for (const std::string& word : entry.words) line += (line.back() == '=' ? "" : "|") + word;
    all.push_back(line);
  }
  return all;
}

std::string Refused(const std::string& text) { return Message(ParseConfig(text).status()); }

TEST(ConfigFile, SectionsKeysTextsNumbersAndListsAreRead) {
  EXPECT_EQ(Parsed("\xEF\xBB\xBFlog-level = info\r\n; a comment\n\n[kv.gc] # another\n"
                   "dry-run\nstate='a#b'\n"),
            (Words{"log-level=info", "kv.gc.dry-run=true", "kv.gc.state=a#b"}));
  EXPECT_EQ(Parsed("[generate]\nstop = [\"a,b\", 'c', # one\n  \"d\\n\\\"\",\n]\nweights = 1,1\n"),
            (Words{"generate.stop=a,b|c|d\n\"", "generate.weights=1,1"}));
  EXPECT_EQ(Parsed("generate.threads = 2\n"), (Words{"generate.threads=2"}));
  EXPECT_EQ(Parsed(""), Words{});
}

TEST(ConfigFile, WhatIsNoConfigFileIsToldWithItsLine) {
  EXPECT_EQ(Refused("[generate\nthreads = 1\n"), "line 1: [generate has no ] at its end");
  EXPECT_EQ(Refused("[a]\nx=1\n[b]\n[a]\n"),
            "line 4: [a] stands in line 1 already; put its keys together");
  EXPECT_EQ(Refused("[a]\nx=1\nx=2\n"),
            "line 3: a.x stands in line 2 already; give it once, several values as a list");
  EXPECT_EQ(Refused("x = \"a\n"), "line 1: x: a text has no \" at its end");
  EXPECT_EQ(Refused("x = \"a\" b\n"), "line 1: x: 'b' stands behind the value");
  EXPECT_EQ(Refused("x =\n"), "line 1: x: it has no value");
  EXPECT_EQ(Refused("x = [1, 2\ny = 3\n").find("line 1: x: a list has no"), 0U);
  EXPECT_EQ(Refused("[a]\ntop-k 3\n"),
            "line 2: 'top-k 3' has no =; expected [COMMAND], or key = value");
  EXPECT_EQ(Refused("= 1\n"), "line 1: expected [COMMAND], or key = value");
  EXPECT_EQ(Refused("a = 1\n\x1b[2J\n"), "it is no config file: byte 0x1b in line 2 is no text");
  EXPECT_EQ(Refused(std::string(kMostConfigBytes + 1, ' ')).find("it is no config file"), 0U);
}

TEST(ConfigFile, NamesAndValuesOfAllCommandsAreChecked) {
  int ranks = 0;
  std::vector<int> batches;
  const CommandRows commands = {
      {"", {{"--log-level", {&ranks, {0, 9}}, ""}}},
      {"plan", {{"-n,--ranks", {&ranks, {1, 9}}, ""}, {"--batch", {&batches, {1, 9}}, ""}}},
      {"serve", {{"--max-clients", {&ranks, {1, 9}}, ""}}}};
  const auto check = [&](const std::string& text) {
    auto entries = ParseConfig(text);
    return Message(CheckConfig(commands, *entries));
  };
  EXPECT_EQ(check("[plan]\nn = 2\nbatch = [1, 2]\n"), "");
  EXPECT_EQ(check("[plan]\nbatch = 1, 2\n"), "");
  EXPECT_EQ(check("[plan]\nbatch = 1, 20\n"),
            "line 2: plan.batch: '20' is no whole number from 1 to 9");
  EXPECT_EQ(check("[plan]\nranks = 0x2\n"),
            "line 2: plan.ranks: '0x2' is no whole number from 1 to 9");
  EXPECT_EQ(check("[plan]\nranks = [1, 2]\n"), "line 2: plan.ranks: expected one value, found 2");
  EXPECT_EQ(check("[plan]\nrank = 1\n"), "line 2: plan.rank is unknown; did you mean ranks?");
  EXPECT_EQ(check("[pln]\n"), "line 1: [pln] is unknown; did you mean plan?");
  EXPECT_EQ(check("log-levle = 1\n"), "line 1: log-levle is unknown; did you mean log-level?");
  EXPECT_EQ(check("[plan]\nRANKS = 1\n"), "line 2: plan.RANKS is unknown; did you mean ranks?");
  EXPECT_EQ(check("[plan]\nbatch = 1,,2\n"),
            "line 2: plan.batch: it is empty: give a value, or leave it out");
  EXPECT_EQ(check("[plan]\nbatch = \"1,\"\n"),
            "line 2: plan.batch: it is empty: give a value, or leave it out");
  EXPECT_EQ(check("\n[plan]\nlog-level = 1\n"),
            "line 3: plan.log-level is unknown; log-level is for all commands: put it above the "
            "first [...]");
  EXPECT_EQ(check("[serve]\nbatch = 1\n"),
            "line 2: serve.batch is unknown; did you mean max-clients? It is a key of [plan]");
  EXPECT_EQ(check("ranks = 1\n"),
            "line 1: ranks is a key of a command, and stands in no section; put it below the line "
            "of its command, as [plan]");
}

}  // namespace
}  // namespace tandem::launcher
