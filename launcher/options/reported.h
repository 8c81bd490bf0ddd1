#pragma once

#include <string>
#include <string_view>

#include "core/base/status.h"

/// How errors reach a user: each in one line.
namespace tandem::launcher {

/// A message that may repeat what anybody wrote, as one line that a terminal can show: control
/// characters and what is no UTF-8 as \\xNN, the middle of what is longer than 4 KiB left out.
std::string OneLine(std::string_view message);

/// With which each error begins.
inline constexpr std::string_view kReportPrefix = "tandem: ";

/// "tandem: MESSAGE" on standard error.
void Report(std::string_view message);
void Report(const absl::Status& status);

/// Marks an error that the user has been told of, so that one line is printed and not one a rank.
absl::Status ReportedElsewhere(absl::Status status);
bool IsReportedElsewhere(const absl::Status& status);

}  // namespace tandem::launcher
