#include "parallel/communicators/agree_on_status.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

namespace tandem::parallel {

absl::Status AgreeOnStatus(Communicator& world, const absl::Status& mine) {
  struct Note {
    int32_t code;
    char text[1020];
  };
  Note note{.code = static_cast<int32_t>(mine.code()), .text = {}};
  const std::string text = Message(mine);
  std::memcpy(note.text, text.data(), std::min(text.size(), sizeof(note.text) - 1));
  std::vector<Note> all(static_cast<size_t>(world.size()));
  TANDEM_RETURN_IF_ERROR(world.AllGather(std::as_bytes(std::span(&note, 1)),
                                         std::as_writable_bytes(std::span(all)), {}));
  constexpr auto kDeadline = static_cast<int32_t>(absl::StatusCode::kDeadlineExceeded);
  const auto failed = [](const Note& each) { return each.code != 0; };
  auto first = std::find_if(all.begin(), all.end(), [&](const Note& each) {
    return failed(each) && each.code != kDeadline;
  });
  if (first == all.end()) first = std::find_if(all.begin(), all.end(), failed);
  if (first == all.end()) return absl::OkStatus();
  const auto rank = static_cast<int>(first - all.begin());
  const std::string where = world.size() > 1 ? RankOnHost(world, rank) + ": " : "";
  return absl::Status(static_cast<absl::StatusCode>(first->code), where + first->text);
}

}  // namespace tandem::parallel
