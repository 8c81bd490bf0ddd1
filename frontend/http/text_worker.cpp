#include "frontend/http/text_worker.h"

namespace tandem::frontend {

TextWorker::TextWorker(int64_t bytes) : limit_(bytes), thread_([this] { Run(); }) {}

TextWorker::~TextWorker() {
  {
    const MutexLock lock(mutex_);
    closing_ = true;
    waiting_.clear();
  }
  changed_.NotifyAll();
  thread_.join();
}

bool TextWorker::Do(int64_t bytes, std::function<void()> work) {
  {
    const MutexLock lock(mutex_);
    if (bytes_ > 0 && bytes_ + bytes > limit_) return false;
    bytes_ += bytes;
    waiting_.emplace_back(bytes, std::move(work));
  }
  changed_.NotifyOne();
  return true;
}

void TextWorker::Run() {
  MutexLock lock(mutex_);
  while (true) {
    while (waiting_.empty() && !closing_) changed_.Wait(mutex_);
    if (closing_) return;
    auto [bytes, work] = std::move(waiting_.front());
    waiting_.pop_front();
    lock.Unlock();
    work();
    work = nullptr;  // what it holds goes without the lock
    lock.Lock();
    bytes_ -= bytes;
  }
}

}  // namespace tandem::frontend
