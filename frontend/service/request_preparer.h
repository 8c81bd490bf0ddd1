#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "core/base/mutex.h"
#include "core/base/status.h"
#include "frontend/service/mailbox.h"
#include "frontend/service/preparation.h"

namespace tandem::frontend {

struct RequestPreparerLimits {
  /// Bytes that may wait; one request of a client always may, up to twice the total.
  int64_t client_bytes = int64_t{4} << 20;
  int64_t total_bytes = int64_t{64} << 20;
  /// Requests of up to so many bytes have a thread that no longer ones of others keep busy.
  int64_t short_bytes = int64_t{256} << 10;
};

/// Threads that render, tokenize and submit requests, which takes long for a long text, and waits
/// where the engine does not answer. The requests of one client stay in order; those of different
/// ones go by fair queuing, so that a short request passes the long ones of others, and they pass
/// it later in turn. It does not wait for a long one that has begun either.
///
/// Source of the order: Demers, Keshav, Shenker 1989 (fair queuing), with bytes for time.
/// What comes of a request goes to the mailbox as Prepared; the engine's events of it may come
/// before. Thread safety: all functions from any thread.
class RequestPreparer {
 public:
  /// `engine` and `model` must outlive it.
  RequestPreparer(parallel::Engine& engine, const TextModel& model,
                  std::shared_ptr<Mailbox> mailbox, const RequestPreparerLimits& limits);
  /// Waits for the requests that are being prepared.
  ~RequestPreparer();
  RequestPreparer(const RequestPreparer&) = delete;
  RequestPreparer& operator=(const RequestPreparer&) = delete;

  /// kResourceExhausted if too much waits, saying when to come back.
  absl::Status Add(Preparation preparation);
  /// Nobody wants it any more. True if the engine has not heard of it and will not; false if
  /// Prepared is to come.
  bool Drop(const std::string& client, uint64_t key);

 private:
  struct Waiting {
    Preparation preparation;
    int64_t bytes = 0;
    int64_t ends_at = 0;  // where all clients got the same number of bytes in a round
  };
  struct ClientQueue {
    std::deque<Waiting> requests;  // never empty
    int64_t bytes = 0;
  };

  struct Working {
    uint64_t key = 0;
    bool dropped = false;
  };

  void Run(int64_t most_bytes);
  void PrepareOne(Preparation preparation);
  /// Takes the one that ends first, of at most so many bytes; nothing: there is none.
  std::optional<Preparation> TakeNext(int64_t most_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Dropped(const std::string& client);  // its request that is being prepared

  parallel::Engine& engine_;
  const TextModel& model_;
  const std::shared_ptr<Mailbox> mailbox_;
  const RequestPreparerLimits limits_;

  Mutex mutex_;
  CondVar changed_;
  std::map<std::string, ClientQueue> waiting_ ABSL_GUARDED_BY(mutex_);  // by client
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t now_ ABSL_GUARDED_BY(mutex_) = 0;                         // as Waiting::ends_at
  std::map<std::string, Working> working_ ABSL_GUARDED_BY(mutex_);  // by client
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread short_thread_;
  std::thread thread_;  // of whatever waits
};

}  // namespace tandem::frontend
