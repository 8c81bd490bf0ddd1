#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "frontend/conversations/conversation_places.h"

/// Which conversations were erased, each by its instance. It is on record twice, in the database
/// and in its witness, so that what older files of one of them bring back is known from the other,
/// and nothing else is taken for erased.
namespace tandem::frontend {

/// Whether a conversation of the later instance went on with that of the earlier one.
bool WentOn(uint64_t earlier, uint64_t later);

struct ErasedConversation {
  ConversationPlaces::Bytes16 conversation{};  // hash of its places
  uint64_t instance = 0;
  auto operator<=>(const ErasedConversation&) const = default;
};
/// Where the database has it on record: `D`, the hash, the instance as 8 bytes, big-endian.
std::string PlaceOfErased(const ErasedConversation& erased);
std::optional<ErasedConversation> ErasedOfPlace(std::string_view place);

/// Thread safety: none.
class ErasedConversations {
 public:
  static constexpr size_t kMost = size_t{1} << 18;

  /// `most`: of those that are kept, the last.
  explicit ErasedConversations(size_t most = kMost) : most_(most) {}

  /// One of no known instance is none.
  void Add(const ErasedConversation& erased);
  /// Whether any of that name was.
  bool Has(const ConversationPlaces::Bytes16& conversation) const;
  /// Whether it was, or what went on with it.
  bool Has(const ErasedConversation& one) const;
  /// In the order in which they were added.
  const std::deque<ErasedConversation>& all() const { return all_; }
  /// Those that go when so many are added.
  std::vector<ErasedConversation> GoingFor(size_t more) const;

 private:
  size_t most_;
  std::deque<ErasedConversation> all_;
  std::set<ErasedConversation> known_;
};

}  // namespace tandem::frontend
