#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "parallel/placement/world_check.h"

namespace tandem::launcher {

/// What the text of an option says beyond the type of its target; option_words.h tells how.
enum class Unit {
  kNone,
  kPath,     // written as an absolute path
  kSize,     // bytes
  kAge,      // seconds
  kText,     // any text in UTF-8; the limits are of its bytes. Others may not be empty
  kSeconds,  // kSecondsAlone where the flag stands alone
};
inline constexpr double kSecondsAlone = 2;

/// Where the value of an option is kept, and what it may be.
struct OptionValue {
  std::variant<bool*, int*, int64_t*, float*, double*, std::string*, std::optional<int>*,
               std::optional<int64_t>*, std::optional<uint64_t>*, std::optional<double>*,
               std::optional<std::string>*, std::vector<std::string>*, std::vector<int>*,
               std::vector<int64_t>*, std::vector<double>*>
      target;
  struct Limits {
    double least = 0;
    double most = 0;
  };
  Limits limits = {};  // equal: none, as for texts; every number but a seed has some
  Unit unit = Unit::kNone;
  std::vector<std::string> choices = {};  // empty: any
};

/// One option of a command. All else follows from the rows of a command: flags and their help,
/// environment names, keys of the config file, arguments of ranks, what ranks compare.
struct OptionRow {
  std::string name;  // "--threads"; "-n,--ranks"; "MODEL": an argument without a flag
  OptionValue value;
  std::string help;
  bool same = false;  // on all ranks, or their job is refused
  bool required = false;

  /// "--ranks", or "MODEL".
  std::string flag() const { return name.substr(name.find(',') + 1); }
  /// "TANDEM_RANKS"; empty for an argument without a flag.
  std::string environment() const;
  /// The value as one word of a command line; empty: none is set.
  std::string written() const;
};

/// Arguments with which another process has the same values.
std::vector<std::string> ArgumentsOf(const std::vector<OptionRow>& rows);
/// What the ranks of a job compare.
std::vector<parallel::WorldFact> SameOnAllRanks(const std::vector<OptionRow>& rows);

}  // namespace tandem::launcher
