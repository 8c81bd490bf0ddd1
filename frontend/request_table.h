#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "frontend/generation.h"
#include "parallel/engine.h"

namespace tandem::frontend {

/// One request of a client, from acceptance until its answer is forgotten.
struct RequestRecord {
  std::string client;
  std::string id;
  uint64_t fingerprint = 0;
  uint64_t key = 0;  // the server's own number
  parallel::RequestId engine_id = 0;
  std::optional<AnswerWriter> writer;  // while open
  std::optional<uint64_t> seed;        // where the answer is sampled
  std::optional<std::chrono::steady_clock::time_point> deadline;
  bool cancelled = false;  // the engine has been told to end it

  std::string text;                // delivered so far
  std::vector<size_t> delta_ends;  // where each delta ends in `text`
  std::string done_frame;          // empty while open
  uint64_t finished_as = 0;        // place in the order of finishing
  bool open() const { return done_frame.empty(); }
  int64_t bytes() const;
};

/// Requests in progress, and the answers given lately, so that an id sent again is answered again
/// and not run again.
///
/// Invariants: (client, id) names one record. Finished answers are kept up to a number and a total
/// of bytes, oldest out first. Records do not move. Thread safety: one thread.
class RequestTable {
 public:
  RequestTable(int64_t kept_answers, int64_t kept_bytes)
      : kept_answers_(kept_answers), kept_bytes_(kept_bytes) {}

  /// A new open record; (client, id) must be free.
  RequestRecord& Add(std::string client, std::string id);
  RequestRecord* Find(const std::string& client, const std::string& id);
  RequestRecord* FindOpen(uint64_t key);
  std::vector<RequestRecord*> OpenOf(const std::string& client);
  std::vector<RequestRecord*> AllOpen();

  /// Moves an open record among the kept answers. The record may be gone afterwards.
  void Finish(RequestRecord& record, std::string done_frame);
  void Erase(RequestRecord& record);
  /// Erases the answers kept for a client.
  void ForgetAnswersOf(const std::string& client);

  int64_t open() const { return static_cast<int64_t>(open_.size()); }
  int64_t OpenCount(const std::string& client) const;

 private:
  using Name = std::pair<std::string, std::string>;  // client, id

  const int64_t kept_answers_;
  const int64_t kept_bytes_;
  std::map<Name, std::unique_ptr<RequestRecord>> records_;
  std::unordered_map<uint64_t, RequestRecord*> open_;  // by key
  std::unordered_map<std::string, int64_t> open_of_client_;
  std::map<uint64_t, RequestRecord*> finished_;  // by RequestRecord::finished_as
  int64_t finished_bytes_ = 0;
  uint64_t next_key_ = 1;
  uint64_t next_finished_ = 1;
};

}  // namespace tandem::frontend
