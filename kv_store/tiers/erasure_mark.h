#pragma once

#include <string>

#include "core/base/status.h"

namespace tandem::kv_store {

/// Tells whether a folder of records is of a time before something was erased from it last: then
/// somebody has put an older copy back, and what was erased is in it again.
///
/// A random number is drawn at each erasure, and kept in a file in the folder and in one outside,
/// as 32 hexadecimal digits (outside two of them while the folder's changes). A folder with another
/// number than the file outside, or none, is older. Where neither has one nothing was erased yet; a
/// folder that alone has one may be older. Thread safety: none.
class ErasureMark {
 public:
  /// outside: path of a file; empty: nothing is kept, and nothing is older.
  ErasureMark(const std::string& folder, std::string outside)
      : inside_(folder + "/erased"), outside_(std::move(outside)) {}

  bool FolderIsOlder() const;
  /// The folder is of now, whatever number it has.
  absl::Status Accept() const;
  /// Something was erased from the folder, and whoever asked for it was not told yet. Where that
  /// cannot be written, the folder may count as older later.
  absl::Status Note() const;

 private:
  const std::string inside_;
  const std::string outside_;
};

}  // namespace tandem::kv_store
