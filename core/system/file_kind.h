#pragma once

#include <sys/stat.h>

#include <string_view>

namespace tandem {

/// What st_mode of struct stat says is at a path: "a file", "a folder", "a pipe", "a socket", "a
/// link" or "a device".
std::string_view FileKindText(mode_t mode);

}  // namespace tandem
