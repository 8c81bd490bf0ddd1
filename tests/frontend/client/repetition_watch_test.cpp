#include "frontend/client/repetition_watch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace tandem::frontend {
namespace {

/// After how many bytes it is noticed, given piece by piece; 0: never.
size_t NoticedAfter(const std::string& text, size_t piece) {
  RepetitionWatch watch;
  for (size_t i = 0; i < text.size(); i += piece) {
    if (watch.Append(std::string_view(text).substr(i, piece)))
      return std::min(text.size(), i + piece);
  }
  return 0;
}

std::string Times(const std::string& run, size_t times) {
  std::string text;
  for (size_t i = 0; i < times; ++i) text += run;
  return text;
}

TEST(RepetitionWatch, NoticesARunThatComesManyTimes) {
  const std::string beginning =
      "The Eiffel Tower stands in Paris, which is the capital of France. ";
  for (const std::string run : {"a", "no ", "la femme au martyre, ", "x\n\n",
                                "A sentence of about fifty bytes that says it again. "}) {
    for (const size_t piece : {size_t{1}, size_t{7}, size_t{300}}) {
      const std::string text = beginning + Times(run, 4000 / run.size());
      const size_t noticed = NoticedAfter(text, piece);
      EXPECT_GE(noticed, RepetitionWatch::kBytes) << run;
      EXPECT_LE(noticed,
                beginning.size() +
                    std::max(RepetitionWatch::kBytes, RepetitionWatch::kTimes * run.size()) +
                    run.size() + 32 + 2 * piece)
          << run;
    }
  }
}

TEST(RepetitionWatch, LetsPassWhatOnlyLooksAlike) {
  std::string counting;
  for (int i = 0; i < 2000; ++i) counting += std::to_string(i) + ", ";
  EXPECT_EQ(NoticedAfter(counting, 5), 0U);
  std::string table;
  for (int i = 0; i < 100; ++i) {
    table += "| " + std::to_string(i * i) + " | " + std::string(60, '-') + " |\n";
  }
  EXPECT_EQ(NoticedAfter(table, 5), 0U);
  EXPECT_EQ(NoticedAfter("a list: " + Times("item; ", 9) + "and that is all of it.", 3), 0U);
  // What repeated itself and went on.
  EXPECT_EQ(NoticedAfter(Times("na ", 100) + "Batman! " + Times("na ", 100), 1), 0U);
}

}  // namespace
}  // namespace tandem::frontend
