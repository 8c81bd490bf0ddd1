#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

namespace tandem::launcher {

/// A line of a hostfile: "n2 slots=4".
struct HostLine {
  std::string name;
  int slots = 1;     // ranks that mpirun starts there first
  std::string rest;  // of the line, behind the name

  bool operator==(const HostLine&) const = default;
};

/// Of a hostfile's text, comments left out.
std::vector<HostLine> ReadHostLines(const std::string& text);

/// Which hosts ranks run on, where some get lost and come back. Holds no clocks or processes.
/// Thread safety: none.
///
/// A lost host's place goes to a spare one. Where none is left, there are fewer ranks, if there may
/// be: as many of each hundred as there are slots of each hundred. The first host stays, since the
/// server runs there.
class HostPool {
 public:
  /// hosts: at least one, in the order of the ranks. ranks: on all of them.
  HostPool(std::vector<HostLine> hosts, std::vector<std::string> spares, int ranks,
           bool fewer_ranks);

  /// Whether that is news: a host or a spare one that was not lost, and is not the first.
  bool Lose(const std::string& name);
  bool Find(const std::string& name);
  /// So many ranks are wanted from now on while no host is lost.
  void Want(int ranks) { ranks_ = ranks; }

  struct Plan {
    std::vector<HostLine> hosts;
    int ranks = 0;
    bool operator==(const Plan&) const = default;
    /// As a hostfile.
    std::string Text() const;
  };
  /// On the hosts that are left; nothing where ranks would be too few.
  std::optional<Plan> Next() const;

  const std::set<std::string>& lost() const { return lost_; }
  int ranks() const { return ranks_; }

 private:
  const std::vector<HostLine> hosts_;
  const std::vector<std::string> spares_;
  int ranks_;
  const bool fewer_ranks_;
  std::set<std::string> lost_;
};

}  // namespace tandem::launcher
