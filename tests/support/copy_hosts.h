#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "kv_store/agent_link/agent_codec.h"
#include "kv_store/agent_link/copy_keeper.h"
#include "kv_store/journal/journal_copies.h"
#include "tests/support/disk_image.h"
#include "tests/support/temporary_directory.h"

namespace tandem::testing {

/// The disks of a few hosts, with an agent's copies on each, as the agent of host "0" shows them.
/// Every message goes through the codec.
class CopyHosts {
 public:
  explicit CopyHosts(int count, std::chrono::milliseconds attention = std::chrono::milliseconds(0))
      : attention_(attention) {
    for (int i = 0; i < count; ++i) Start(std::to_string(i));
  }

  std::string FolderOf(const std::string& host) const {
    return temporary_.path() + "/" + host + "/copies";
  }
  void Start(const std::string& host) {
    copies_[host] = std::make_unique<kv_store::JournalCopies>(kv_store::JournalCopies::Options{
        .folder = FolderOf(host), .attention = attention_, .page_bytes = 1000});
  }
  /// As a kill -9 leaves it: what lies on the disk at this moment.
  void Kill(const std::string& host) {
    const std::string folder = FolderOf(host);
    if (std::filesystem::exists(folder)) CopyAsOfAMoment(folder, folder + ".image");
    copies_.erase(host);
    std::filesystem::remove_all(folder);
    if (std::filesystem::exists(folder + ".image"))
      std::filesystem::rename(folder + ".image", folder);
  }
  bool Runs(const std::string& host) { return copies_.contains(host); }

  kv_store::CopyKeeper::Ask Ask() {
    return [this](kv_store::AgentMessage message,
                  std::chrono::milliseconds) -> absl::StatusOr<kv_store::AgentMessage> {
      const std::lock_guard lock(mutex_);
      if (cut_) return Unavailable("it is cut off");
      const auto request =
          kv_store::DecodeAgentFrame(kv_store::EncodeAgentFrame({.call = 1, .message = message}));
      EXPECT_TRUE(request.ok()) << request.status();
      const bool lost = --answers_left_ == 0;
      if (lost && !lost_is_done_) return absl::DeadlineExceededError("late");
      const auto answer = kv_store::DecodeAgentFrame(
          kv_store::EncodeAgentFrame({.call = 1, .message = Do(request->message)}));
      EXPECT_TRUE(answer.ok()) << answer.status();
      if (lost) return absl::DeadlineExceededError("late");
      return answer->message;
    };
  }
  /// The question after so many is lost on its way, or its answer.
  void LoseOne(int after, bool answer) {
    const std::lock_guard lock(mutex_);
    answers_left_ = after + 1;
    lost_is_done_ = answer;
  }
  /// Nobody's questions are answered any more.
  void Cut(bool cut) {
    const std::lock_guard lock(mutex_);
    cut_ = cut;
  }
  void LoseNone() { LoseOne(-2, false); }
  template <typename Change>
  void Between(const Change& change) {
    const std::lock_guard lock(mutex_);
    change();
  }

  std::string keeper = "1";

 private:
  static kv_store::AgentMessage Answer(const absl::Status& status) {
    return kv_store::AgentStatus{.status = status};
  }

  kv_store::AgentMessage Do(const kv_store::AgentMessage& request) {
    const auto at = [this](const std::string& host) { return copies_.find(host); };
    if (std::holds_alternative<kv_store::AgentCopyFind>(request)) {
      kv_store::AgentCopies found;
      found.self = "0";
      found.keeper = Runs(keeper) ? keeper : "";
      for (auto& [host, copies] : copies_) {
        for (kv_store::JournalCopy& copy : copies->List()) found.copies.push_back({host, copy});
      }
      return found;
    }
    if (const auto* append = std::get_if<kv_store::AgentCopyAppend>(&request)) {
      if (!Runs(append->to)) return Answer(Unavailable("host {} is down", append->to));
      auto position = at(append->to)->second->Append(append->state, append->entries);
      if (!position.ok()) return Answer(position.status());
      return kv_store::AgentCopyAt{.position = *position};
    }
    if (const auto* part = std::get_if<kv_store::AgentCopyPart>(&request)) {
      if (!Runs(part->to)) return Answer(Unavailable("host {} is down", part->to));
      return Answer(at(part->to)->second->Take(part->state, part->part));
    }
    if (const auto* read = std::get_if<kv_store::AgentCopyRead>(&request)) {
      if (!Runs(read->to)) return Answer(Unavailable("host {} is down", read->to));
      auto page = at(read->to)->second->Read(read->state, read->behind);
      if (!page.ok()) return Answer(page.status());
      return kv_store::AgentCopyPage{.page = *std::move(page)};
    }
    if (const auto* erase = std::get_if<kv_store::AgentCopyErase>(&request)) {
      absl::Status first;
      for (auto& [host, copies] : copies_) {
        const absl::Status status = copies->Erase(erase->state, erase->at, erase->ranges);
        if (first.ok()) first = status;
      }
      return Answer(first);
    }
    if (const auto* fence = std::get_if<kv_store::AgentCopyFence>(&request)) {
      return Answer(at("0")->second->Fence(fence->state, fence->at));
    }
    return Answer(Internal("not of copies"));
  }

  const std::chrono::milliseconds attention_;
  TemporaryDirectory temporary_;
  std::mutex mutex_;
  std::map<std::string, std::unique_ptr<kv_store::JournalCopies>> copies_;
  int answers_left_ = -1;
  bool lost_is_done_ = false;
  bool cut_ = false;
};

}  // namespace tandem::testing
