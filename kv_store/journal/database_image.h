#pragma once

#include <string>
#include <string_view>

#include "core/base/status.h"

/// A database's files as they are before it is opened, which changes and removes them.
///
/// An image is a folder beside the database's, `FOLDER.before`, of links to the same files: whoever
/// opens the database writes new files only. It is there while the database is being opened, with a
/// file `FOLDER.opening` that says so, and nothing is acknowledged before it is gone: who cannot
/// drop or keep it must not go on.
namespace tandem::kv_store {

/// A folder beside the database's for links to its files, on which something is tried.
inline constexpr const char* kTrialFolder = ".trial";
/// A database beside another, which is written to take its place, and is not whole yet.
inline constexpr const char* kUnfinished = ".unfinished";
/// The same once it is whole: it takes the place of a database that is not there.
inline constexpr const char* kRenewed = ".new";
/// Makes a folder of links to the files of another, but for its LOCK, or to the one of that name;
/// where the file system has no links, of copies. kUnavailable: then it is not there.
absl::Status LinkFiles(const std::string& from, const std::string& to, std::string_view only = "");

/// Whether there is a database, or what is left of one, or of one that was being opened.
bool DatabaseIsThere(const std::string& folder);

/// Puts aside what is in the way of a database and its image (MakeWay); says what that was.
absl::StatusOr<std::string> MakeWayForDatabase(const std::string& folder);
/// Puts right what a process left that died while it opened the database, and takes an image. A
/// `FOLDER.before` of somebody else's is kept as `FOLDER.aside-N`. kUnavailable if that cannot be
/// done (a full disk, say): then there is none, or HasImage says that there still is an old one.
absl::Status TakeImage(const std::string& folder);
bool HasImage(const std::string& folder);
/// Where the files are as they were: in the image, or where there is none, in the folder.
std::string FilesBefore(const std::string& folder);
/// The database is what it was, again.
absl::Status RestoreImage(const std::string& folder);
/// Keeps the image for whoever wants to look at it. Where it is then, `FOLDER.damaged-N`; empty if
/// there is none.
absl::StatusOr<std::string> KeepImage(const std::string& folder);
absl::Status DropImage(const std::string& folder);
/// Removes the files of a database, which the image has; where there is none they are kept as that
/// would be.
absl::Status DiscardFiles(const std::string& folder);

}  // namespace tandem::kv_store
