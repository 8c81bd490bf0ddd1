#include "frontend/service/engine_figures.h"

#include <utility>

namespace tandem::frontend {

EngineFigures::EngineFigures(parallel::Engine& engine, std::shared_ptr<Mailbox> mailbox)
    : engine_(engine), mailbox_(std::move(mailbox)), thread_([this] { Run(); }) {}

EngineFigures::~EngineFigures() {
  {
    const MutexLock lock(mutex_);
    closing_ = true;
    changed_.NotifyOne();
  }
  thread_.join();
}

uint64_t EngineFigures::Ask() {
  const MutexLock lock(mutex_);
  changed_.NotifyOne();
  return ++asked_;
}

void EngineFigures::Run() {
  for (;;) {
    uint64_t number = 0;
    {
      const MutexLock lock(mutex_);
      while (asked_ == answered_ && !closing_) changed_.Wait(mutex_);
      if (closing_) return;
      number = answered_ = asked_;
    }
    mailbox_->Put(
        {.key = 0, .what = Mailbox::EngineAnswer{.number = number, .status = engine_.Status()}});
  }
}

}  // namespace tandem::frontend
