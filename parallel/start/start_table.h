#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tandem::parallel {

/// What a rank does at its start, in the order in which it is done.
enum class StartPhase : int32_t {
  kJoining,
  kModel,
  kComparing,
  kPreparing,
  kKv,
  kPlacing,
  kLinking,
  kLoading,
  kSettingUp,
  kReady,
};
/// "loading its weights".
std::string_view StartPhaseText(StartPhase phase);
inline constexpr int kStartPhases = static_cast<int>(StartPhase::kReady) + 1;

/// A rank's sign that its start goes on.
struct StartNews {
  int rank = 0;
  std::string host;
  StartPhase phase = StartPhase::kJoining;
  int percent = 0;  // of the phase, where it tells; else 0
  int pid = 0;      // of its process; 0: not told

  bool operator==(const StartNews&) const = default;
};

/// Variable that is set for the ranks of a job whose starter reads their standard error: each sends
/// its news there, as lines that begin with kStartPrefix.
inline constexpr const char* kStartVariable = "TANDEM_START_LINE";
inline constexpr std::string_view kStartPrefix = "tandem-start ";

/// News as a line, with its end; and back, nothing if it is none.
std::string StartLine(const StartNews& news);
std::optional<StartNews> ReadStartLine(std::string_view line);

/// How long a rank may give no sign while it starts: `asked`, but 15 s at least, since a rank may
/// have reason to wait that long for something.
std::chrono::steady_clock::duration StartPatience(std::chrono::duration<double> asked);

/// What is known of the starts of a job's ranks, and for how long nothing was heard of each.
///
/// Time counts only while somebody looks (Pass): who was stopped himself blames nobody for that.
/// Thread safety: none.
class StartTable {
 public:
  using Duration = std::chrono::steady_clock::duration;

  explicit StartTable(int ranks) : places_(static_cast<size_t>(ranks)) {}

  /// News of a rank that the table does not have are left out.
  void Hear(const StartNews& news);
  /// The time since the last call, of which at most a second counts.
  void Pass(Duration time);
  /// The ranks that are not ready and gave no sign for `patience`, or `first` if they never did;
  /// and beside one of these, those that gave none for half of `patience`.
  std::vector<int> Silent(Duration patience, Duration first) const;
  bool heard() const;
  bool ready() const;
  /// The last of a rank, which has a host where it was heard.
  const StartNews& news(int rank) const { return places_[static_cast<size_t>(rank)].news; }
  const std::string& host(int rank) const { return places_[static_cast<size_t>(rank)].news.host; }

  /// "rank 1 on host n2 has given no sign for 60 s: it was loading its weights (37 %)", of several
  /// ranks one after the other.
  std::string Describe(const std::vector<int>& ranks) const;

 private:
  struct Place {
    StartNews news;
    bool heard = false;
    Duration quiet{0};
  };
  std::vector<Place> places_;  // [ranks]
};

}  // namespace tandem::parallel
