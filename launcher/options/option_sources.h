#pragma once

#include <map>
#include <string>

#include "core/base/status.h"

namespace tandem::launcher {

/// Where the values of a command's options came from: messages about a value name that.
struct OptionSources {
  std::map<std::string, std::string> given;  // on the command line, as typed: "--ranks", "-n"
  std::map<std::string, std::string>
      elsewhere;  // "--isa": "TANDEM_ISA", "config file F: serve.isa"

  bool Given(const std::string& flag) const { return given.contains(flag); }
  bool IsDefault(const std::string& flag) const { return NameOf(flag).empty(); }

  /// A message that begins with a flag, with the name in its place by which its value was given.
  std::string Name(const std::string& message) const;
  absl::Status Name(const absl::Status& status) const;

  /// An error about the value of `flag` that does not begin with one, with the name before it by
  /// which the value was given; not where the value is the default.
  absl::Status Blame(const std::string& flag, const absl::Status& status) const;

 private:
  /// Empty: the value is the default.
  std::string NameOf(const std::string& flag) const;
};

}  // namespace tandem::launcher
