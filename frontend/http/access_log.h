#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "parallel/engine/engine.h"

namespace tandem::frontend {

/// What is told of one request: nothing of its text.
struct AccessRecord {
  std::string request_id;
  std::string peer;
  std::string_view method;
  std::string_view route;  // its pattern; "-" where there is none
  int status = 0;
  std::string error;  // its code; empty: none
  std::string tenant;
  bool stream = false;
  double seconds = 0;  // until the answer was complete
  std::optional<double> first_token_seconds;
  std::string finish_reason;             // empty: there was no answer
  std::optional<parallel::Usage> usage;  // of an answer
};

/// One line of JSON, without its end.
std::string AccessLine(const AccessRecord& record);

}  // namespace tandem::frontend
