#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "frontend/jinja/values/sandbox.h"

/// Where a string falls apart.
namespace tandem::frontend::jinja {

/// The bytes [begin, end) of a string.
struct Piece {
  size_t begin = 0;
  size_t end = 0;
};

/// str.split() and str.rsplit() at white space, at most `most` times; no limit if negative.
std::vector<Piece> SplitAtSpace(std::string_view bytes, int64_t most, bool from_right);

/// The same at a separator, which must not be empty. Spends fuel.
absl::StatusOr<std::vector<Piece>> SplitAtText(Sandbox& sandbox, std::string_view bytes,
                                               std::string_view separator, int64_t most,
                                               bool from_right);

/// str.splitlines().
std::vector<Piece> SplitLines(std::string_view bytes, bool keep_ends);

}  // namespace tandem::frontend::jinja
