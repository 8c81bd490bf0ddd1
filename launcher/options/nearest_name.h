#pragma once

#include <string>
#include <vector>

/// What somebody who mistyped a name may have meant.
namespace tandem::launcher {

/// The one of `names` of which the fewest letters must change to make `word`, whatever their case;
/// empty if there are none.
std::string Nearest(const std::string& word, const std::vector<std::string>& names);

/// Whether somebody who wrote `word` may have meant `name`.
bool IsNear(const std::string& word, const std::string& name);

/// " (did you mean NAME?)", or nothing where no name is near. Near is also the only one that begins
/// with `word`.
std::string DidYouMean(const std::string& word, const std::vector<std::string>& names);

}  // namespace tandem::launcher
