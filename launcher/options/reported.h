#pragma once

#include <cstdio>

#include "absl/strings/cord.h"
#include "core/base/status.h"

namespace tandem::launcher {

/// The one line that a user gets of an error.
inline void Report(const absl::Status& status) {
  std::fprintf(stderr, "tandem: %s\n", Message(status).c_str());
}

/// Marks an error that the user has been told of, so that one line is printed and not one a rank.
inline absl::Status ReportedElsewhere(absl::Status status) {
  status.SetPayload("tandem/reported-elsewhere", absl::Cord());
  return status;
}
inline bool IsReportedElsewhere(const absl::Status& status) {
  return status.GetPayload("tandem/reported-elsewhere").has_value();
}

}  // namespace tandem::launcher
