#pragma once

#include <chrono>
#include <set>
#include <string>
#include <vector>

#include "parallel/start/start_table.h"

namespace tandem::launcher {

/// What a rank job writes to standard error: lines that mpirun, and Open MPI in the ranks, write
/// for themselves, those of ours, and the signs of the ranks' starts. Thread safety: none.
class JobLines {
 public:
  /// tells_hosts: each host is told of in the log, once its first rank starts.
  explicit JobLines(int ranks, bool tells_hosts = false)
      : starts_(ranks), tells_hosts_(tells_hosts) {}

  /// A line of the job's, with its end: keeps it, or gives it back to be shown.
  std::string Take(std::string line);
  /// Why the job ended, empty if nobody said.
  std::string Reason() const;
  const std::string& notices() const { return notices_; }
  /// Whether ranks have started, or hosts were named for which they have not.
  bool told() const { return told_; }
  /// Whether a rank has told an error of its own.
  bool reported() const { return !report_.empty(); }
  /// How far the ranks have come.
  parallel::StartTable& starts() { return starts_; }
  /// The hosts that cannot be reached, as the hostfile calls them.
  const std::vector<std::string>& unreached() const { return unreached_hosts_; }
  /// Whether hosts that cannot be reached are the reason.
  bool names_hosts() const { return !unreached_.empty(); }

 private:
  parallel::StartTable starts_;
  const bool tells_hosts_;
  std::set<std::string> hosts_;  // of ranks that have started
  std::string notices_;
  std::string unreached_;
  std::vector<std::string> unreached_hosts_;
  std::string report_;  // the last that a rank told
  bool in_notice_ = false;
  bool told_ = false;
};

/// The reason in mpirun's notices: "rank 1 on host n2 was ended by signal 9 (Killed)", or empty if
/// they do not say.
std::string ReasonFromMpirun(const std::string& notices);

/// The first of mpirun's paragraphs that says something, as one line, with what it announces.
std::string FirstParagraph(const std::string& notices);

}  // namespace tandem::launcher
