#pragma once

#include <string>

/// A rendered chat is a sequence of segments that says who wrote which bytes.
namespace tandem::frontend {

/// A run of bytes of one origin.
///
/// Text that the chat template wrote itself may hold control tokens. Text that came from a message,
/// a tool or any other value given by a client never does, whatever it looks like: the tokenizer
/// encodes it as plain text, even across the border between two segments.
struct TextSegment {
  std::string text;
  bool from_template = false;

  bool operator==(const TextSegment&) const = default;
};

}  // namespace tandem::frontend
