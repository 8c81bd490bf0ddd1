#pragma once

#include "core/base/status.h"
#include "frontend/jinja/syntax/ast.h"

namespace tandem::frontend::jinja {

/// Whether all filters and tests of a template are known. As in jinja2, those inside of `if`, and
/// of inline conditions, may be unknown as long as they are not reached. Fails with
/// InvalidArgument, "line N: ...".
absl::Status CheckNames(const Body& body);

}  // namespace tandem::frontend::jinja
