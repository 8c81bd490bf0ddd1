#pragma once

#include <CLI/CLI.hpp>
#include <cctype>
#include <string>

/// Flags of the command line that are environment variables too.
namespace tandem::launcher {

/// "--max-tokens" is also TANDEM_MAX_TOKENS.
inline CLI::Option* WithEnvironment(CLI::Option* option) {
  std::string name = "TANDEM_" + option->get_lnames().front();
  for (char& c : name) c = c == '-' ? '_' : static_cast<char>(std::toupper(c));
  return option->envname(name);
}

template <typename T>
CLI::Option* Add(CLI::App& app, const std::string& name, T& target, const std::string& help) {
  return WithEnvironment(app.add_option(name, target, help)->capture_default_str());
}

}  // namespace tandem::launcher
