#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

namespace tandem::launcher {

/// A status document of a server (docs/protocol.md) for people: lines, each with its newline, of
/// ranks, requests, pages, reuse and rates.
///
/// The document came over a network: whatever is missing or of another type shows as "?", and
/// nothing in it can do anything to a terminal. With a `previous` document of the same server, that
/// was taken a while before, tokens a second are of the time between the two; without, they are
/// what the server says.
std::string StatusText(const nlohmann::json& status, const nlohmann::json* previous = nullptr);

/// `text` as it fits a terminal: at most so many lines, each of at most so many columns.
std::string FitTerminal(const std::string& text, int columns, int lines);

}  // namespace tandem::launcher
