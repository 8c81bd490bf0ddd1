#include "frontend/service/request_table.h"

namespace tandem::frontend {

int64_t RequestRecord::bytes() const {
  size_t bytes = sizeof(RequestRecord) + name.client.size() + name.id.size() +
                 deltas.size() * sizeof(Delta) + choices.size() * sizeof(AnswerChoice);
  for (const AnswerChoice& choice : choices) {
    bytes += choice.text.size();
    for (const parallel::TokenLogprobs& token : choice.logprobs) {
      bytes += sizeof(token) + token.top.size() * sizeof(parallel::TokenLogprob);
    }
  }
  return static_cast<int64_t>(bytes);
}

RequestRecord& RequestTable::Add(RequestName name, size_t choices) {
  auto record = std::make_unique<RequestRecord>();
  record->name = std::move(name);
  record->key = next_key_++;
  record->choices.resize(choices);
  RequestRecord& added = *record;
  open_[added.key] = &added;
  open_answers_ += static_cast<int64_t>(choices);
  open_answers_of_client_[added.name.client] += static_cast<int64_t>(choices);
  records_[added.name] = std::move(record);
  return added;
}

RequestRecord* RequestTable::Find(const RequestName& name) {
  const auto found = records_.find(name);
  return found == records_.end() ? nullptr : found->second.get();
}

RequestRecord* RequestTable::FindOpen(uint64_t key) {
  const auto found = open_.find(key);
  return found == open_.end() ? nullptr : found->second;
}

std::vector<RequestRecord*> RequestTable::OpenOf(const std::string& client) {
  std::vector<RequestRecord*> records;
  for (auto it = records_.lower_bound({.client = client, .id = ""});
       it != records_.end() && it->first.client == client; ++it) {
    if (it->second->open()) records.push_back(it->second.get());
  }
  return records;
}

std::vector<RequestRecord*> RequestTable::AllOpen() {
  std::vector<RequestRecord*> records;
  for (const auto& [key, record] : open_) records.push_back(record);
  return records;
}

std::vector<const RequestRecord*> RequestTable::AllOpen() const {
  std::vector<const RequestRecord*> records;
  for (const auto& [key, record] : open_) records.push_back(record);
  return records;
}

int64_t RequestTable::OpenAnswersOf(const std::string& client) const {
  const auto found = open_answers_of_client_.find(client);
  return found == open_answers_of_client_.end() ? 0 : found->second;
}

void RequestTable::Close(const RequestRecord& record) {
  open_.erase(record.key);
  const auto answers = static_cast<int64_t>(record.choices.size());
  open_answers_ -= answers;
  const auto of_client = open_answers_of_client_.find(record.name.client);
  of_client->second -= answers;
  if (of_client->second == 0) open_answers_of_client_.erase(of_client);
}

bool RequestTable::Keeps(const RequestRecord& record) const {
  return record.events->repeats() != AnswerEvents::Repeats::kNever && kept_answers_ > 0 &&
         record.bytes() <= kept_bytes_;
}

void RequestTable::Finish(RequestRecord& record) {
  if (!Keeps(record)) {
    Drop(record);
    return;
  }
  Close(record);
  for (AnswerChoice& choice : record.choices) choice.writer.reset();
  record.turn.reset();
  record.deadline.reset();
  record.detached_until.reset();
  record.finished_as = next_finished_++;
  finished_[record.finished_as] = &record;
  finished_bytes_ += record.bytes();
  while (static_cast<int64_t>(finished_.size()) > kept_answers_ || finished_bytes_ > kept_bytes_) {
    Drop(*finished_.begin()->second);
  }
}

void RequestTable::Drop(RequestRecord& record) {
  if (record.open()) {
    Close(record);
  } else {
    finished_bytes_ -= record.bytes();
    finished_.erase(record.finished_as);
  }
  const RequestName name = record.name;  // which goes with the record
  records_.erase(name);
}

void RequestTable::DropPassingAnswersOf(const std::string& client) {
  auto it = records_.lower_bound({.client = client, .id = ""});
  while (it != records_.end() && it->first.client == client) {
    RequestRecord& record = *it->second;
    ++it;
    const bool passing = record.events->repeats() == AnswerEvents::Repeats::kWhileConnected;
    if (!record.open() && passing) Drop(record);
  }
}

}  // namespace tandem::frontend
