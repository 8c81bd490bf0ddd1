#include "frontend/server/zmtp.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace tandem::frontend {
namespace {

std::string Bytes(std::string_view text, size_t size) {
  std::string bytes(text);
  bytes.resize(size, '\0');
  return bytes;
}

std::string Greeting() { return Bytes("\xFF", 9) + '\x7F' + '\3' + '\1' + Bytes("NULL", 52); }

/// A READY of a DEALER with this identity.
std::string ReadyOf(std::string_view identity, std::string_view type = "DEALER") {
  std::string body =
      std::string("\5READY\13Socket-Type\0\0\0", 21) + static_cast<char>(type.size());
  body.append(type).append("\10Identity").append(3, '\0');
  body += static_cast<char>(identity.size());
  body.append(identity);
  return std::string("\4") + static_cast<char>(body.size()) + body;
}

/// All events of some bytes that come piece by piece, up to the first that is Broken.
std::vector<ZmtpReader::Event> Read(std::string_view bytes, size_t piece, uint64_t limit = 1000) {
  ZmtpReader reader(limit);
  std::vector<ZmtpReader::Event> events;
  for (size_t at = 0; at < bytes.size(); at += piece) {
    reader.Append(bytes.substr(at, piece));
    for (;;) {
      ZmtpReader::Event event = reader.Next();
      if (std::holds_alternative<ZmtpReader::NeedsBytes>(event)) break;
      events.push_back(std::move(event));
      if (std::holds_alternative<ZmtpReader::Broken>(events.back())) return events;
    }
  }
  return events;
}

TEST(Zmtp, ReadsMessagesPingsAndFramesThatAreTooLarge) {
  const std::string large(2000, 'x');
  const std::string bytes = Greeting() + ReadyOf("alice") + ZmtpMessage("one", false) +
                            ZmtpMessage("two", true) + std::string("\4\11\4PING\0\1ab", 11) +
                            std::string("\4\5\4PONG", 7) + ZmtpMessage(large, true) +
                            std::string("\1\1a\1\1b\0\1c", 9) + ZmtpMessage("last", false);
  for (const size_t piece : {size_t{1}, size_t{2}, size_t{7}, size_t{64}, bytes.size()}) {
    const std::vector<ZmtpReader::Event> events = Read(bytes, piece);
    ASSERT_EQ(events.size(), 8U) << piece;
    EXPECT_TRUE(std::holds_alternative<ZmtpReader::Greeted>(events[0]));
    EXPECT_EQ(std::get<ZmtpReader::Ready>(events[1]).identity, "alice");
    const auto message = [&](size_t at) { return std::get<ZmtpReader::Message>(events[at]); };
    EXPECT_EQ(message(2).frame, "one");
    EXPECT_TRUE(message(2).single);
    EXPECT_FALSE(message(2).envelope);
    EXPECT_EQ(message(3).frame, "two");
    EXPECT_TRUE(message(3).single);
    EXPECT_TRUE(message(3).envelope);
    EXPECT_EQ(std::get<ZmtpReader::Ping>(events[4]).context, "ab");
    EXPECT_EQ(message(5).oversized, large.size());
    EXPECT_EQ(message(5).frame, large.substr(0, message(5).frame.size()));
    EXPECT_TRUE(message(5).envelope);
    EXPECT_EQ(message(6).frame, "c");
    EXPECT_FALSE(message(6).single);
    EXPECT_EQ(message(7).frame, "last") << "the large one leaves nothing behind";
    EXPECT_TRUE(message(7).single);
    EXPECT_FALSE(message(7).envelope);
    EXPECT_EQ(message(7).oversized, 0U);
  }
}

TEST(Zmtp, ATooLargeFrameIsToldWithItsBeginning) {
  // A length of 2^63 bytes, of which the first KiB comes.
  const std::string header("\2\x80\0\0\0\0\0\0\0", 9);
  const std::string beginning(1024, 'b');
  EXPECT_EQ(Read(Greeting() + ReadyOf("") + header + beginning.substr(1), 1, 5000).size(), 2U);
  for (const size_t piece : {size_t{1}, size_t{5000}}) {
    const auto events = Read(Greeting() + ReadyOf("") + header + beginning, piece, 5000);
    ASSERT_EQ(events.size(), 3U);
    EXPECT_EQ(std::get<ZmtpReader::Message>(events[2]).oversized, uint64_t{1} << 63);
    EXPECT_EQ(std::get<ZmtpReader::Message>(events[2]).frame, beginning);
  }
}

TEST(Zmtp, WhatIsNoClientIsBroken) {
  const std::string old = Bytes("\xFF", 9) + '\x7F' + '\1' + '\5';  // waits for an answer here
  const std::string curve = Bytes("\xFF", 9) + '\x7F' + '\3' + '\1' + Bytes("CURVE", 52);
  const std::string hello = Greeting() + ReadyOf("");
  for (const std::string& bytes :
       {std::string("GET / HTTP/1.1"), old, curve, Greeting() + ZmtpMessage("early", false),
        Greeting() + ReadyOf("", "PUB"), Greeting() + ReadyOf(std::string("\0x", 2)),
        Greeting() + std::string("\4\6\5READX", 8), Greeting() + std::string("\4\0", 2),
        Greeting() + std::string("\4\7\5READY\377", 9), hello + std::string("\4\5\4PING", 7),
        hello + std::string("\5\0", 2), hello + std::string("\x10\0", 2),
        hello + std::string("\6\0\0\0\0\0\1\0\0", 9), hello + std::string("\4\7\5ERROR\0", 9)}) {
    for (const size_t piece : {size_t{1}, bytes.size()}) {
      const auto events = Read(bytes, piece);
      ASSERT_FALSE(events.empty());
      EXPECT_TRUE(std::holds_alternative<ZmtpReader::Broken>(events.back())) << bytes;
    }
  }
}

TEST(Zmtp, RandomBytesEndInEvents) {
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {
    std::string bytes = Greeting() + ReadyOf("x");
    for (int i = 0; i < 300; ++i) bytes += static_cast<char>(random() % (round % 2 == 0 ? 256 : 8));
    for (const ZmtpReader::Event& event : Read(bytes, 1 + random() % 50)) {
      if (const auto* message = std::get_if<ZmtpReader::Message>(&event)) {
        EXPECT_LE(message->frame.size(), 1000U);
      }
    }
  }
}

}  // namespace
}  // namespace tandem::frontend
