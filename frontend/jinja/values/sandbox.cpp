#include "frontend/jinja/values/sandbox.h"

namespace tandem::frontend::jinja {
namespace {

constexpr size_t kStringBytesPerStep = 128;

}  // namespace

absl::Status Sandbox::Charge(int64_t steps) {
  used_steps_ += steps;
  if (used_steps_ > limits_.steps) {
    return ResourceExhausted("the template takes more than {} steps: an endless loop?",
                             limits_.steps);
  }
  return absl::OkStatus();
}

absl::Status Sandbox::Reserve(size_t bytes) {
  live_bytes_ += bytes;
  if (live_bytes_ > limits_.live_bytes) {
    return ResourceExhausted("the template's values take more than {} bytes", limits_.live_bytes);
  }
  return absl::OkStatus();
}

absl::Status Sandbox::CheckStringSize(size_t bytes) const {
  if (bytes > limits_.string_bytes) {
    return ResourceExhausted("the template makes a string longer than {} bytes",
                             limits_.string_bytes);
  }
  return absl::OkStatus();
}

absl::Status Sandbox::CheckDepth(int depth) const {
  if (depth > limits_.value_depth) {
    return ResourceExhausted("the template nests lists or dicts deeper than {}",
                             limits_.value_depth);
  }
  return absl::OkStatus();
}

absl::Status Sandbox::CheckListSize(uint64_t items) const {
  if (items > limits_.live_bytes / sizeof(Value)) {
    return ResourceExhausted("the template makes a list of {} items, which is too long", items);
  }
  return absl::OkStatus();
}

absl::StatusOr<Value> Sandbox::String(Text text, bool markup) {
  TANDEM_RETURN_IF_ERROR(CheckStringSize(text.size()));
  TANDEM_RETURN_IF_ERROR(
      Charge(static_cast<int64_t>(1 + text.MemoryBytes() / kStringBytesPerStep)));
  const size_t bytes = text.MemoryBytes() + sizeof(Text) + kObjectOverhead;
  TANDEM_RETURN_IF_ERROR(Reserve(bytes));
  std::shared_ptr<const Text> shared(new Text(std::move(text)), [this, bytes](const Text* gone) {
    live_bytes_ -= bytes;
    delete gone;
  });
  return Value::String(std::move(shared), markup);
}

absl::StatusOr<Value> Sandbox::String(std::string bytes, bool trusted) {
  return String(Text(std::move(bytes), trusted));
}

absl::StatusOr<Value> Sandbox::MakeSequence(Type type, std::vector<Value> items) {
  TANDEM_RETURN_IF_ERROR(Charge(static_cast<int64_t>(items.size())));
  TANDEM_RETURN_IF_ERROR(Reserve(items.size() * sizeof(Value)));
  TANDEM_ASSIGN_OR_RETURN(Value value, Make<Sequence>(type, std::move(items)));
  TANDEM_RETURN_IF_ERROR(CheckDepth(Depth(value)));
  return value;
}

absl::StatusOr<Value> Sandbox::Take(std::unique_ptr<Dict> dict) {
  TANDEM_RETURN_IF_ERROR(CheckDepth(dict->depth()));
  TANDEM_RETURN_IF_ERROR(Charge(static_cast<int64_t>(1 + dict->size())));
  TANDEM_RETURN_IF_ERROR(Reserve(sizeof(Dict) + dict->size() * kDictEntryBytes));
  objects_.push_back(std::move(dict));
  return Value::Of(objects_.back().get());
}

absl::StatusOr<Value> Sandbox::Iterator(NextValue next, const Value& source) {
  const int depth = source.is(Type::kIterator) ? Depth(source) + 1 : 1;
  TANDEM_RETURN_IF_ERROR(CheckDepth(depth));
  return Make<jinja::Iterator>(std::move(next), depth);
}

}  // namespace tandem::frontend::jinja
