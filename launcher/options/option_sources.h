#pragma once

#include <map>
#include <set>
#include <string>

#include "core/base/status.h"

namespace tandem::launcher {

/// Where the values of a command's options came from: messages about a value name that.
struct OptionSources {
  std::set<std::string> given;  // on the command line: "--threads"
  std::map<std::string, std::string>
      elsewhere;  // "--isa": "TANDEM_ISA", "config file F: serve.isa"

  bool Given(const std::string& flag) const { return given.contains(flag); }

  /// A message that begins with a flag whose value is from elsewhere, with that in its place.
  std::string Name(const std::string& message) const;
  absl::Status Name(const absl::Status& status) const;

  /// An error about the value of `flag` that does not begin with one, with the flag, or where else
  /// the value came from, before it; not where the value is the default.
  absl::Status Blame(const std::string& flag, const absl::Status& status) const;
};

}  // namespace tandem::launcher
