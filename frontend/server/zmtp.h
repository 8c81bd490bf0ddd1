#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

/// ZeroMQ's wire protocol as a ROUTER without encryption speaks it: bytes in, bytes out, no
/// sockets. Source: RFC 23 (ZMTP 3.0) and RFC 37 (ZMTP 3.1), with the NULL mechanism.
namespace tandem::frontend {

/// What a server says first, and then, once it has heard a client's greeting.
std::string ZmtpGreeting();
std::string ZmtpReady();
/// Answers a ping, with the context that it brought.
std::string ZmtpPong(std::string_view context);
/// A message of one frame. `envelope`: with the empty frame before it that a REQ waits for.
std::string ZmtpMessage(std::string_view frame, bool envelope);

/// Takes a client's bytes apart, one event after another.
///
/// Holds at most one frame within the limit, and what of the last bytes was not looked at yet; of a
/// larger frame it keeps nothing after its beginning. Whatever the bytes are, they end in an event.
/// Thread safety: one thread.
class ZmtpReader {
 public:
  struct NeedsBytes {};
  struct Greeted {};  // answer with ZmtpReady
  struct Ready {
    std::string identity;  // that the client has chosen; empty: none
  };
  struct Ping {
    std::string context;
  };
  struct Message {
    std::string frame;      // the last one
    bool single = true;     // false: there were several, or none
    bool envelope = false;  // with an empty frame before it
    /// Set: a frame beyond the limit is on its way. It is told when its first KiB is there, and
    /// read over; `frame` is what came of it.
    uint64_t oversized = 0;
  };
  struct Broken {};  // no ZMTP 3 of a client: nothing can be read any more
  using Event = std::variant<NeedsBytes, Greeted, Ready, Ping, Message, Broken>;

  explicit ZmtpReader(uint64_t frame_bytes) : frame_bytes_(frame_bytes) {}

  /// Bytes that came. Call it after NeedsBytes only, so that little is held.
  void Append(std::string_view bytes);
  Event Next();

  /// Bytes of the frame whose header was read that have not been taken yet.
  uint64_t left() const { return left_; }

 private:
  enum class Phase : uint8_t { kGreeting, kReady, kTraffic, kBroken };

  std::string_view rest() const { return std::string_view(input_).substr(at_); }
  Event Break();
  /// The frame header that comes next, once all of it is there.
  bool ReadHeader();
  Event ReadCommand();
  /// The body of a frame, as far as it is there. True once the message is complete.
  bool ReadBody();

  const uint64_t frame_bytes_;
  Phase phase_ = Phase::kGreeting;
  std::string input_;
  size_t at_ = 0;  // in it: what was looked at already

  bool in_frame_ = false;  // its header was read
  uint8_t flags_ = 0;      // of this frame
  uint64_t left_ = 0;      // bytes of it that are to come
  bool skipping_ = false;  // the rest of this message, because of a frame beyond the limit
  int frames_ = 0;         // of this message, without envelopes; counts to 2
  Message message_;        // that is being read
};

}  // namespace tandem::frontend
