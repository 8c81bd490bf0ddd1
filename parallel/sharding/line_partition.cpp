#include "parallel/sharding/line_partition.h"

#include <algorithm>
#include <limits>

namespace tandem::parallel {
namespace {

/// Orders partitions that are equally fast: fewer penalties first, then more even.
struct Tie {
  int64_t penalty = 0;
  double unevenness = std::numeric_limits<double>::infinity();  // infinite: impossible

  bool possible() const { return unevenness < std::numeric_limits<double>::infinity(); }
  bool BetterThan(const Tie& other) const {
    if (possible() != other.possible()) return possible();
    if (penalty != other.penalty) return penalty < other.penalty;
    // Sums that differ by rounding alone are equal.
    return unevenness < other.unevenness * (1 - 1e-12);
  }
};

/// Decides one deadline after the other for one problem.
class LineCutter {
 public:
  explicit LineCutter(const LineProblem& problem)
      : problem_(problem), ranks_(static_cast<int64_t>(problem.speeds.size())) {}

  std::optional<std::vector<int64_t>> Fastest() {
    if (problem_.units < problem_.minimum_units * ranks_) return std::nullopt;
    double total_speed = 0;
    for (const double speed : problem_.speeds) total_speed += speed;
    const double total = problem_.cost(0, problem_.units);
    // With this much time each rank could take everything, so more would not help either.
    const double longest =
        total / *std::min_element(problem_.speeds.begin(), problem_.speeds.end());
    double impossible = 0;
    double possible = total / total_speed;
    while (!Possible(possible)) {
      if (possible >= longest) return std::nullopt;
      impossible = possible;
      possible = std::min(2 * possible, longest);
    }
    for (;;) {
      const double middle = impossible + (possible - impossible) / 2;
      if (middle <= impossible || middle >= possible) break;
      (Possible(middle) ? possible : impossible) = middle;
    }
    return Cut(possible);
  }

 private:
  bool Fits(int64_t rank, int64_t begin, int64_t end, double deadline) const {
    const auto r = static_cast<size_t>(rank);
    const double cost = problem_.cost(begin, end);
    return cost / problem_.speeds[r] <= deadline &&
           (problem_.limits.empty() || cost <= problem_.limits[r]);
  }

  /// The largest end such that [begin, end) fits; begin itself if not even one unit does.
  int64_t FarthestEnd(int64_t rank, int64_t begin, double deadline) const {
    int64_t low = begin;
    int64_t high = problem_.units;
    while (low < high) {
      const int64_t middle = low + (high - low + 1) / 2;
      if (Fits(rank, begin, middle, deadline)) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return low;
  }

  /// The smallest begin such that [begin, end) fits.
  int64_t FarthestBegin(int64_t rank, int64_t end, double deadline) const {
    int64_t low = 0;
    int64_t high = end;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (Fits(rank, middle, end, deadline)) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }

  /// Where each cut can lie at all: first_[r] <= cuts[r] <= last_[r]. Without a minimum this alone
  /// decides, since a rank may always take less of what it can reach.
  bool FindWindows(double deadline) {
    const auto ranks = static_cast<size_t>(ranks_);
    last_.assign(ranks + 1, 0);
    first_.assign(ranks + 1, problem_.units);
    for (int64_t rank = 0; rank < ranks_; ++rank) {
      const auto r = static_cast<size_t>(rank);
      const int64_t leave = problem_.minimum_units * (ranks_ - rank - 1);
      last_[r + 1] = std::min(FarthestEnd(rank, last_[r], deadline), problem_.units - leave);
    }
    for (int64_t rank = ranks_ - 1; rank >= 0; --rank) {
      const auto r = static_cast<size_t>(rank);
      first_[r] =
          std::max(FarthestBegin(rank, first_[r + 1], deadline), problem_.minimum_units * rank);
    }
    if (first_[0] > 0 || last_[ranks] < problem_.units) return false;
    for (size_t r = 0; r <= ranks; ++r) {
      if (first_[r] > last_[r]) return false;
    }
    return true;
  }

  bool Possible(double deadline) {
    if (!FindWindows(deadline)) return false;
    return problem_.minimum_units == 0 || MinimumReached(deadline);
  }

  /// Whether some choice of cuts gives every rank its minimum: which cut points can be reached is
  /// followed from rank to rank.
  bool MinimumReached(double deadline) const {
    std::vector<int64_t> reached = {0};  // possible values of cuts[rank], ascending
    for (int64_t rank = 0; rank < ranks_ && !reached.empty(); ++rank) {
      std::vector<int64_t> next;
      int64_t end = 0;  // neither this nor what comes after it shrinks as begin grows
      for (const int64_t begin : reached) {
        const int64_t smallest = begin + problem_.minimum_units;
        end = std::max(end, begin);
        while (end < problem_.units && Fits(rank, begin, end + 1, deadline)) ++end;
        const int64_t from = next.empty() ? smallest : std::max(smallest, next.back() + 1);
        for (int64_t cut = from; cut <= end; ++cut) next.push_back(cut);
      }
      reached = std::move(next);
    }
    return !reached.empty() && reached.back() == problem_.units;
  }

  /// The best partition under the deadline by dynamic programming over the cut points, from the
  /// last rank to the first.
  std::optional<std::vector<int64_t>> Cut(double deadline) {
    if (!FindWindows(deadline)) return std::nullopt;
    const auto ranks = static_cast<size_t>(ranks_);
    std::vector<std::vector<int64_t>> choice(ranks);  // [rank][begin - first] best end
    std::vector<Tie> after = {{0, 0.0}};              // [begin - first] of the ranks that follow
    for (size_t r = ranks; r-- > 0;) {
      std::vector<Tie> best(static_cast<size_t>(last_[r] - first_[r] + 1));
      choice[r].resize(best.size());
      for (int64_t begin = first_[r]; begin <= last_[r]; ++begin) {
        const auto b = static_cast<size_t>(begin - first_[r]);
        // Larger ends first: of equals the lower rank takes more.
        int64_t end = std::min(FarthestEnd(static_cast<int64_t>(r), begin, deadline), last_[r + 1]);
        const int64_t smallest = std::max(begin + problem_.minimum_units, first_[r + 1]);
        for (; end >= smallest; --end) {
          Tie tie = after[static_cast<size_t>(end - first_[r + 1])];
          const double cost = problem_.cost(begin, end);
          tie.unevenness += cost * cost / problem_.speeds[r];
          if (problem_.penalty) tie.penalty += problem_.penalty(begin, end);
          if (!tie.BetterThan(best[b])) continue;
          best[b] = tie;
          choice[r][b] = end;
        }
      }
      after = std::move(best);
    }
    if (!after[0].possible()) return std::nullopt;
    std::vector<int64_t> cuts = {0};
    for (size_t r = 0; r < ranks; ++r) {
      cuts.push_back(choice[r][static_cast<size_t>(cuts[r] - first_[r])]);
    }
    return cuts;
  }

  const LineProblem& problem_;
  const int64_t ranks_;
  std::vector<int64_t> first_;  // [ranks + 1] see FindWindows
  std::vector<int64_t> last_;
};

}  // namespace

std::optional<std::vector<int64_t>> CutLine(const LineProblem& problem) {
  return LineCutter(problem).Fastest();
}

}  // namespace tandem::parallel
