#include "frontend/conversations/erased_conversations.h"

#include <algorithm>

namespace tandem::frontend {

bool WentOn(uint64_t earlier, uint64_t later) {
  constexpr uint64_t kMostTimes = uint64_t{1} << 20;
  return earlier != 0 && later != 0 && later != earlier && later - earlier <= kMostTimes;
}

std::string PlaceOfErased(const ErasedConversation& erased) {
  std::string place = ConversationPlaces::Place(
      ConversationPlaces::PrefixOfHash(erased.conversation), erased.instance);
  place[0] = ConversationPlaces::kErased;
  return place;
}

std::optional<ErasedConversation> ErasedOfPlace(std::string_view place) {
  if (place.empty() || place[0] != ConversationPlaces::kErased) return {};
  std::string as_turn(place);
  as_turn[0] = ConversationPlaces::kConversation;
  const auto instance = ConversationPlaces::NumberOfPlace(as_turn);
  if (!instance) return {};
  return ErasedConversation{.conversation = ConversationPlaces::HashOfPrefix(as_turn),
                            .instance = *instance};
}

void ErasedConversations::Add(const ErasedConversation& erased) {
  if (erased.instance == 0 || !known_.insert(erased).second) return;
  all_.push_back(erased);
  if (all_.size() <= most_) return;
  known_.erase(all_.front());
  all_.pop_front();
}

bool ErasedConversations::Has(const ConversationPlaces::Bytes16& conversation) const {
  const auto first = known_.lower_bound({.conversation = conversation, .instance = 0});
  return first != known_.end() && first->conversation == conversation;
}

bool ErasedConversations::Has(const ErasedConversation& one) const {
  const auto next = known_.lower_bound(one);
  return one.instance != 0 && next != known_.end() && next->conversation == one.conversation &&
         (next->instance == one.instance || WentOn(one.instance, next->instance));
}

std::vector<ErasedConversation> ErasedConversations::GoingFor(size_t more) const {
  const size_t all = all_.size() + more;
  const size_t going = std::min(all_.size(), all > most_ ? all - most_ : 0);
  return {all_.begin(), all_.begin() + static_cast<ptrdiff_t>(going)};
}

}  // namespace tandem::frontend
