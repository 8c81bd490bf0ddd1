#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "core/base/status.h"
#include "parallel/engine/engine.h"

namespace tandem::parallel {

inline constexpr uint8_t kLinkVersion = 12;
// Frames that either end sends or receives in a row: neither direction may starve the other.
inline constexpr int kFramesInARow = 64;

// The messages between a RemoteEngine ("client") and an EngineServer. Request and query numbers are
// the client's.

struct LinkHello {};   // client: I am here
struct LinkWelcome {   // server: and so am I
  uint64_t epoch = 0;  // of the rank job
};
struct LinkPing {};  // server: nothing; sent to show that it lives, and whether the client does
struct LinkStop {};  // client: end the engine
struct LinkSubmit {  // client
  RequestId id = 0;
  EngineRequest request;
};
struct LinkCancel {  // client
  RequestId id = 0;
};
struct LinkAccepted {  // server
  RequestId id = 0;
};
struct LinkRefused {  // server: Submit's error
  RequestId id = 0;
  absl::Status status;
};
struct LinkTokens {  // server
  RequestId id = 0;
  std::vector<int32_t> tokens;
};
struct LinkLogits {  // server
  RequestId id = 0;
  int64_t position = 0;
  std::vector<float> logits;  // [vocab]
};
struct LinkLogprobs {  // server
  RequestId id = 0;
  int64_t position = 0;
  std::vector<TokenLogprobs> logprobs;
};
struct LinkFinish {  // server
  RequestId id = 0;
  Finish finish;
};
struct LinkStatusQuery {  // client
  uint64_t query = 0;
};
struct LinkStatus {  // server
  uint64_t query = 0;
  absl::Status error;  // else `status`
  EngineStatus status;
};
struct LinkDead {  // server: the engine's health
  absl::Status why;
};
struct LinkAdmitted {  // server: it left the queue
  RequestId id = 0;
};

using LinkMessage = std::variant<LinkHello, LinkWelcome, LinkPing, LinkStop, LinkSubmit, LinkCancel,
                                 LinkAccepted, LinkRefused, LinkTokens, LinkLogits, LinkLogprobs,
                                 LinkFinish, LinkStatusQuery, LinkStatus, LinkDead, LinkAdmitted>;

/// version u8, kind u8 (the place in LinkMessage), then the fields in order, little endian.
std::vector<std::byte> EncodeLinkMessage(const LinkMessage& message);

/// kInvalidArgument, saying what is wrong, for everything that EncodeLinkMessage did not write.
absl::StatusOr<LinkMessage> DecodeLinkMessage(std::span<const std::byte> bytes);

}  // namespace tandem::parallel
