#include "parallel/communicators/communicator.h"

#include <algorithm>

namespace tandem::parallel {

int Communicator::local_rank() const {
  const auto begin = hosts().begin();
  return static_cast<int>(std::count(begin, begin + rank(), host()));
}

int Communicator::local_size() const {
  return static_cast<int>(std::count(hosts().begin(), hosts().end(), host()));
}

void Communicator::PublishTo(ProgressBoard* board) {
  board_ = board;
  if (board != nullptr) board->Begin(rank());
}

absl::Status BroadcastString(Communicator& world, std::string& text) {
  uint64_t size = text.size();
  TANDEM_RETURN_IF_ERROR(world.Broadcast(std::as_writable_bytes(std::span(&size, 1))));
  text.resize(size);
  return world.Broadcast(std::as_writable_bytes(std::span(text.data(), text.size())));
}

std::string RankOnHost(const Communicator& world, int rank) {
  return fmt::format("rank {} on host {}", rank, world.hosts()[static_cast<size_t>(rank)]);
}

std::string PhaseText(const core::StepPhase& phase) {
  std::string text = fmt::format("step {}", phase.step);
  if (phase.layer >= 0) text += fmt::format(", layer {}", phase.layer);
  switch (phase.kind) {
    case core::StepPhase::Kind::kAttention:
      return text + ", attention";
    case core::StepPhase::Kind::kFeedForward:
      return text + ", feed-forward";
    case core::StepPhase::Kind::kVocabulary:
      return text + ", vocabulary";
    case core::StepPhase::Kind::kOther:
      return text;
  }
  return text;
}

}  // namespace tandem::parallel
