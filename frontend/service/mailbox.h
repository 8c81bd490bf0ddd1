#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include "core/base/mutex.h"
#include "core/base/status.h"
#include "frontend/service/preparation.h"
#include "parallel/engine/engine.h"

namespace tandem::frontend {

/// Hands what the engine, the preparer, the log of conversations and front ends on other threads
/// produce over to the service's thread, and wakes it.
///
/// Held in shared ownership by the service and every sink, because an engine (or a log) may call a
/// sink after the service is gone. Memory is bounded by the tokens of the requests in progress, and
/// by what front ends hold of clients.
/// Thread safety: any thread may put and wake; one thread takes.
class Mailbox {
 public:
  /// A request's turn is in the log, or is not; or a command on a conversation.
  struct TurnLogged {
    absl::Status status;
  };
  struct CommandLogged {
    absl::Status status;
  };
  /// What EngineFigures asked for.
  struct EngineAnswer {
    uint64_t number = 0;
    absl::StatusOr<parallel::EngineStatus> status;
  };
  /// What another thread wants done.
  struct Call {
    std::function<void()> function;
  };
  struct Event {
    uint64_t key = 0;   // the service's number of the request, or of the command
    size_t choice = 0;  // which of its answers
    /// Of a request: tokens; log-probabilities, which come before their tokens; a notice; the end;
    /// what came
    /// of its preparation, perhaps after some of these; or news of the log. And of the engine, and
    /// of other threads.
    std::variant<std::vector<int32_t>, std::vector<parallel::TokenLogprobs>, parallel::EngineNotice,
                 parallel::Finish, std::unique_ptr<Prepared>, TurnLogged, CommandLogged,
                 EngineAnswer, Call>
        what;
  };

  Mailbox() : wake_fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}
  ~Mailbox() { close(wake_fd_); }
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;

  void Put(Event event) {
    bool first = false;
    {
      const MutexLock lock(mutex_);
      first = events_.empty();
      events_.push_back(std::move(event));
    }
    if (first) Wake();
  }

  /// Everything put so far, in order.
  std::vector<Event> Take() {
    uint64_t count = 0;
    // Cleared before the events are taken, so that none is ever left without a wake-up.
    (void)!read(wake_fd_, &count, sizeof(count));
    const MutexLock lock(mutex_);
    return std::exchange(events_, {});
  }

  /// Makes wake_fd() readable. Safe in a signal handler.
  void Wake() {
    const uint64_t one = 1;
    (void)!write(wake_fd_, &one, sizeof(one));
  }
  int wake_fd() const { return wake_fd_; }

 private:
  const int wake_fd_;
  Mutex mutex_;
  std::vector<Event> events_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tandem::frontend
