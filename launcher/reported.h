#pragma once

#include "absl/strings/cord.h"
#include "core/status.h"

namespace tandem::launcher {

/// Marks an error that another rank tells the user of, so that one line is printed and not one a
/// rank.
inline absl::Status ReportedElsewhere(absl::Status status) {
  status.SetPayload("tandem/reported-elsewhere", absl::Cord());
  return status;
}
inline bool IsReportedElsewhere(const absl::Status& status) {
  return status.GetPayload("tandem/reported-elsewhere").has_value();
}

}  // namespace tandem::launcher
