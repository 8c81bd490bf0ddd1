#include "frontend/http/text_worker.h"

#include <algorithm>
#include <utility>

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

bool TextWorker::Do(uint64_t client, int64_t bytes, std::function<void()> work) {
  {
    const MutexLock lock(mutex_);
    if (bytes_ > 0 && bytes_ + bytes > limit_) return false;
    bytes_ += bytes;
    Client& its = clients_[client];
    its.ends_at = std::max(now_, its.ends_at) + bytes;
    ++its.waiting;
    waiting_.emplace(its.ends_at,
                     Waiting{.client = client, .bytes = bytes, .work = std::move(work)});
  }
  changed_.NotifyOne();
  return true;
}

TextWorker::Waiting TextWorker::TakeFirst() {
  const auto first = waiting_.begin();
  now_ = std::max(now_, first->first - first->second.bytes);
  Waiting waiting = std::move(first->second);
  waiting_.erase(first);
  const auto client = clients_.find(waiting.client);
  if (--client->second.waiting == 0) clients_.erase(client);
  return waiting;
}

void TextWorker::Run() {
  MutexLock lock(mutex_);
  while (true) {
    while (waiting_.empty() && !closing_) changed_.Wait(mutex_);
    if (closing_) return;
    Waiting next = TakeFirst();
    lock.Unlock();
    next.work();
    next.work = nullptr;  // what it holds goes without the lock
    lock.Lock();
    bytes_ -= next.bytes;
  }
}

}  // namespace tandem::frontend
