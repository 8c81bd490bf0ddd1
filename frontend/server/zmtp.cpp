#include "frontend/server/zmtp.h"

#include <strings.h>

#include <algorithm>
#include <utility>

namespace tandem::frontend {
namespace {

constexpr size_t kGreetingBytes = 64;
constexpr size_t kVersionAt = 10;
constexpr size_t kMechanismAt = 12;
constexpr size_t kMechanismBytes = 20;
constexpr char kVersion = 3;

constexpr uint8_t kMore = 1;
constexpr uint8_t kLong = 2;
constexpr uint8_t kCommand = 4;
constexpr size_t kLongHeader = 9;         // flags and a length of 64 bits
constexpr size_t kShortHeader = 2;        // flags and a length of 8 bits
constexpr uint64_t kCommandBytes = 4096;  // no command of a client comes near
constexpr uint64_t kBeginning = 1024;     // of a large frame: an id, with luck, and one packet
constexpr size_t kPingContext = 16;       // at most, as RFC 37 has it
constexpr size_t kPingTtl = 2;            // bytes

void AppendLength(uint64_t length, int bytes, std::string& out) {
  for (int shift = (bytes - 1) * 8; shift >= 0; shift -= 8) {
    out.push_back(static_cast<char>((length >> shift) & 0xFF));
  }
}

uint64_t ReadLength(std::string_view bytes) {
  uint64_t length = 0;
  for (const char byte : bytes) length = (length << 8) | static_cast<uint8_t>(byte);
  return length;
}

void AppendFrame(uint8_t flags, std::string_view body, std::string& out) {
  const bool is_long = body.size() > 0xFF;
  out.push_back(static_cast<char>(flags | (is_long ? kLong : 0)));
  AppendLength(body.size(), is_long ? 8 : 1, out);
  out.append(body);
}

std::string Command(std::string_view name, std::string_view body) {
  std::string command(1, static_cast<char>(name.size()));
  command.append(name).append(body);
  std::string frame;
  AppendFrame(kCommand, command, frame);
  return frame;
}

std::string Property(std::string_view name, std::string_view value) {
  std::string out(1, static_cast<char>(name.size()));
  out.append(name);
  AppendLength(value.size(), 4, out);
  return out.append(value);
}

/// Takes a part off the beginning of `bytes`, whose length stands before it; false if it is not
/// there.
bool TakePart(size_t length_bytes, std::string_view& bytes, std::string_view& part) {
  if (bytes.size() < length_bytes) return false;
  const uint64_t length = ReadLength(bytes.substr(0, length_bytes));
  bytes.remove_prefix(length_bytes);
  if (bytes.size() < length) return false;
  part = bytes.substr(0, length);
  bytes.remove_prefix(length);
  return true;
}

bool EqualsIgnoringCase(std::string_view a, std::string_view b) {
  return a.size() == b.size() && strncasecmp(a.data(), b.data(), a.size()) == 0;
}

/// The identity of a READY's properties; false if they are malformed, or not those of a client.
bool ReadProperties(std::string_view properties, std::string& identity) {
  std::string_view name;
  std::string_view value;
  bool client = false;
  while (!properties.empty()) {
    if (!TakePart(1, properties, name) || !TakePart(4, properties, value)) return false;
    if (EqualsIgnoringCase(name, "Socket-Type")) {
      client = value == "DEALER" || value == "REQ" || value == "ROUTER";
    } else if (EqualsIgnoringCase(name, "Identity")) {
      identity = value;
    }
  }
  // Names that begin with a zero byte are the server's, for clients without one.
  return client && identity.size() <= 0xFF && (identity.empty() || identity[0] != '\0');
}

}  // namespace

std::string ZmtpGreeting() {
  std::string greeting("\xFF\0\0\0\0\0\0\0\0\x7F", kVersionAt);
  greeting.push_back(kVersion);
  greeting.push_back(0);
  greeting += "NULL";
  greeting.resize(kGreetingBytes, '\0');
  return greeting;
}

std::string ZmtpReady() {
  return Command("READY", Property("Socket-Type", "ROUTER") + Property("Identity", ""));
}

std::string ZmtpPong(std::string_view context) { return Command("PONG", context); }

std::string ZmtpMessage(std::string_view frame, bool envelope) {
  std::string message;
  message.reserve(frame.size() + kLongHeader + kShortHeader);
  if (envelope) AppendFrame(kMore, "", message);
  AppendFrame(0, frame, message);
  return message;
}

void ZmtpReader::Append(std::string_view bytes) {
  input_.erase(0, std::exchange(at_, 0));
  input_.append(bytes);
}

ZmtpReader::Event ZmtpReader::Break() {
  phase_ = Phase::kBroken;
  return Broken{};
}

ZmtpReader::Event ZmtpReader::Next() {
  if (phase_ == Phase::kBroken) return Broken{};
  if (phase_ == Phase::kGreeting) {
    const std::string_view greeting = rest();
    // Other programs, and ZeroMQ before 4.0, are told from the first bytes: they wait for an answer
    // after fewer than a greeting has.
    if (!greeting.empty() && greeting[0] != '\xFF') return Break();
    if (greeting.size() > kVersionAt && greeting[kVersionAt] < kVersion) return Break();
    if (greeting.size() < kGreetingBytes) return NeedsBytes{};
    std::string mechanism = "NULL";
    mechanism.resize(kMechanismBytes, '\0');
    if (greeting.substr(kMechanismAt, kMechanismBytes) != mechanism) return Break();
    at_ += kGreetingBytes;
    phase_ = Phase::kReady;
    return Greeted{};
  }
  for (;;) {
    if (!in_frame_ && !ReadHeader()) {
      if (phase_ == Phase::kBroken) return Broken{};
      return NeedsBytes{};
    }
    if ((flags_ & kCommand) != 0) {
      if (rest().size() < left_) return NeedsBytes{};
      Event event = ReadCommand();
      if (!std::holds_alternative<NeedsBytes>(event)) return event;
      continue;  // a command that asks for nothing
    }
    if (left_ > frame_bytes_ && !skipping_) {
      if (rest().size() < std::min({left_, frame_bytes_, kBeginning})) return NeedsBytes{};
      skipping_ = true;
      message_.frame.clear();
      return Message{.frame = std::string(rest().substr(0, std::min(left_, frame_bytes_))),
                     .envelope = message_.envelope,
                     .oversized = left_};
    }
    if (ReadBody()) return std::exchange(message_, {});
    if (in_frame_) return NeedsBytes{};
  }
}

bool ZmtpReader::ReadHeader() {
  const std::string_view bytes = rest();
  if (bytes.empty()) return false;
  flags_ = static_cast<uint8_t>(bytes[0]);
  const bool command = (flags_ & kCommand) != 0;
  const bool known = (flags_ & ~(kMore | kLong | kCommand)) == 0 && !(command && (flags_ & kMore));
  const size_t header = (flags_ & kLong) != 0 ? kLongHeader : kShortHeader;
  if (!known || (phase_ == Phase::kReady && !command)) {
    phase_ = Phase::kBroken;
    return false;
  }
  if (bytes.size() < header) return false;
  left_ = ReadLength(bytes.substr(1, header - 1));
  if (command && left_ > kCommandBytes) {
    phase_ = Phase::kBroken;
    return false;
  }
  at_ += header;
  in_frame_ = true;
  return true;
}

ZmtpReader::Event ZmtpReader::ReadCommand() {
  std::string_view body = rest().substr(0, left_);
  std::string_view name;
  at_ += left_;
  in_frame_ = false;
  if (!TakePart(1, body, name)) return Break();
  if (phase_ == Phase::kReady) {
    Ready ready;
    if (name != "READY" || !ReadProperties(body, ready.identity)) return Break();
    phase_ = Phase::kTraffic;
    return ready;
  }
  if (name == "ERROR") return Break();
  if (name != "PING") return NeedsBytes{};
  // The time to live is the client's way of asking to be dropped when it is silent; the kernel's
  // keep-alive does that.
  if (body.size() < kPingTtl) return Break();
  return Ping{.context = std::string(body.substr(kPingTtl, kPingContext))};
}

bool ZmtpReader::ReadBody() {
  const uint64_t taken = std::min<uint64_t>(left_, rest().size());
  const bool more = (flags_ & kMore) != 0;
  const bool envelope = frames_ == 0 && more && left_ == 0 && message_.frame.empty();
  if (!skipping_) message_.frame.append(rest().substr(0, taken));
  at_ += taken;
  left_ -= taken;
  if (left_ > 0) return false;
  in_frame_ = false;
  if (envelope) {
    message_.envelope = true;
    return false;
  }
  frames_ = std::min(frames_ + 1, 2);
  if (more) {
    message_.frame.clear();
    return false;
  }
  message_.single = std::exchange(frames_, 0) == 1;
  if (!std::exchange(skipping_, false)) return true;
  message_ = {};
  return false;
}

}  // namespace tandem::frontend
