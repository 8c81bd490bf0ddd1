#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "core/base/wire.h"
#include "parallel/communicators/communicator.h"

namespace tandem::parallel {

/// The bytes of every rank, which may differ in number; at most 1 MiB each. Called by all together.
/// [ranks] Errors: kInvalidArgument, naming the rank that has more; those of the communicator.
absl::StatusOr<std::vector<std::vector<std::byte>>> GatherBytes(Communicator& world,
                                                                std::span<const std::byte> mine);

/// The messages of every rank (core/base/wire.h). Called by all together. [ranks] Errors: as
/// GatherBytes; kInvalidArgument for a message that cannot be read, naming its rank.
template <typename Message>
absl::StatusOr<std::vector<Message>> GatherMessages(Communicator& world, const Message& mine) {
  TANDEM_ASSIGN_OR_RETURN(const auto all, GatherBytes(world, core::Encode(mine)));
  std::vector<Message> messages;
  for (int rank = 0; rank < world.size(); ++rank) {
    TANDEM_ASSIGN_OR_RETURN(Message message,
                            core::Decode<Message>("what " + RankOnHost(world, rank) + " says",
                                                  all[static_cast<size_t>(rank)]));
    messages.push_back(std::move(message));
  }
  return messages;
}

}  // namespace tandem::parallel
