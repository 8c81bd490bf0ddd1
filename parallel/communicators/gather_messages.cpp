#include "parallel/communicators/gather_messages.h"

#include <algorithm>

namespace tandem::parallel {

absl::StatusOr<std::vector<std::vector<std::byte>>> GatherBytes(Communicator& world,
                                                                std::span<const std::byte> mine) {
  constexpr uint64_t kMostBytes = 1 << 20;
  const auto ranks = static_cast<size_t>(world.size());
  const uint64_t size = mine.size();
  std::vector<uint64_t> sizes(ranks);
  TANDEM_RETURN_IF_ERROR(world.AllGather(std::as_bytes(std::span(&size, 1)),
                                         std::as_writable_bytes(std::span(sizes)), {}));
  const auto largest = std::max_element(sizes.begin(), sizes.end());
  if (*largest > kMostBytes) {
    return InvalidArgument("what {} says takes {} bytes, at most {}",
                           RankOnHost(world, static_cast<int>(largest - sizes.begin())), *largest,
                           kMostBytes);
  }
  std::vector<std::byte> padded(mine.begin(), mine.end());
  padded.resize(*largest);
  std::vector<std::byte> gathered(ranks * *largest);
  TANDEM_RETURN_IF_ERROR(world.AllGather(padded, gathered, {}));
  std::vector<std::vector<std::byte>> all;
  for (size_t rank = 0; rank < ranks; ++rank) {
    const auto part = std::span(gathered).subspan(rank * *largest, sizes[rank]);
    all.emplace_back(part.begin(), part.end());
  }
  return all;
}

}  // namespace tandem::parallel
