#include "parallel/start/start_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdio>

namespace tandem::parallel {
namespace {

using std::chrono::duration;
using std::chrono::seconds;

constexpr auto kLeastPatience = seconds(15);
constexpr auto kMostOfOneLook = seconds(1);

constexpr std::array<std::string_view, kStartPhases> kDoing = {
    "joining the other ranks",
    "opening the model",
    "comparing its options with those of the others",
    "opening its port and its state directory",
    "opening the saved KV of its host",
    "choosing its processors and its device",
    "joining its GPU to the others",
    "loading its weights",
    "making room for KV",
    "ready"};

}  // namespace

std::string_view StartPhaseText(StartPhase phase) { return kDoing[static_cast<size_t>(phase)]; }

std::string StartLine(const StartNews& news) {
  return fmt::format("{}{} {} {} {} {}\n", kStartPrefix, news.rank, static_cast<int>(news.phase),
                     news.percent, news.pid, news.host);
}

std::optional<StartNews> ReadStartLine(std::string_view line) {
  if (!line.starts_with(kStartPrefix)) return std::nullopt;
  const std::string rest(line.substr(kStartPrefix.size()));
  StartNews news;
  int phase = 0;
  std::array<char, 256> host = {};
  if (std::sscanf(rest.c_str(), "%9d %2d %3d %9d %255s", &news.rank, &phase, &news.percent,
                  &news.pid, host.data()) != 5 ||
      news.rank < 0 || phase < 0 || phase >= kStartPhases) {
    return std::nullopt;
  }
  news.phase = static_cast<StartPhase>(phase);
  news.host = host.data();
  return news;
}

std::chrono::steady_clock::duration StartPatience(std::chrono::duration<double> asked) {
  return std::max<std::chrono::steady_clock::duration>(
      kLeastPatience, std::chrono::duration_cast<std::chrono::steady_clock::duration>(asked));
}

void StartTable::Hear(const StartNews& news) {
  if (news.rank < 0 || static_cast<size_t>(news.rank) >= places_.size()) return;
  places_[static_cast<size_t>(news.rank)] = {.news = news, .heard = true, .quiet = Duration(0)};
}

void StartTable::Pass(Duration time) {
  for (Place& place : places_) place.quiet += std::min<Duration>(time, kMostOfOneLook);
}

std::vector<int> StartTable::Silent(Duration patience, Duration first) const {
  const auto silent_for = [&](Duration of_heard) {
    std::vector<int> silent;
    for (size_t rank = 0; rank < places_.size(); ++rank) {
      const Place& place = places_[rank];
      if (place.news.phase == StartPhase::kReady) continue;
      if (place.quiet >= (place.heard ? of_heard : first)) silent.push_back(static_cast<int>(rank));
    }
    return silent;
  };
  // Those that fell silent soon after the first one are named with it.
  return silent_for(patience).empty() ? std::vector<int>() : silent_for(patience / 2);
}

bool StartTable::heard() const {
  return std::any_of(places_.begin(), places_.end(), [](const Place& one) { return one.heard; });
}

bool StartTable::ready() const {
  return std::all_of(places_.begin(), places_.end(),
                     [](const Place& one) { return one.news.phase == StartPhase::kReady; });
}

std::string StartTable::Describe(const std::vector<int>& ranks) const {
  std::string text;
  for (const int rank : ranks) {
    const Place& place = places_[static_cast<size_t>(rank)];
    const double quiet = duration<double>(place.quiet).count();
    text += fmt::format("{}rank {}{}{} has given no sign for {:.0f} s", text.empty() ? "" : "; ",
                        rank, place.news.host.empty() ? "" : " on host ", place.news.host, quiet);
    if (!place.heard) {
      text += ", since the job began";
      continue;
    }
    text += fmt::format(": it was {}", StartPhaseText(place.news.phase));
    if (place.news.percent > 0) text += fmt::format(" ({} %)", place.news.percent);
  }
  return text;
}

}  // namespace tandem::parallel
