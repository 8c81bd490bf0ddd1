#pragma once

#include <memory>
#include <string_view>

#include "core/base/status.h"
#include "frontend/jinja/syntax/ast.h"

namespace tandem::frontend::jinja {

/// Parses a template under the settings that chat templates are rendered with (trim_blocks,
/// lstrip_blocks, loop controls, the "generation" tag). Templates that load other templates
/// (extends, include, import) are refused. Fails with InvalidArgument, "line N: ...".
absl::StatusOr<Body> Parse(std::string_view source);

}  // namespace tandem::frontend::jinja
