#include "kv_store/journal/database_scan.h"

#include <rocksdb/db.h>

#include <limits>

namespace tandem::kv_store {
namespace {

constexpr size_t kReadAhead = size_t{1} << 20;

std::string Behind(char kind, uint64_t hash) {
  std::string place(1, kind);
  for (int shift = 56; shift >= 0; shift -= 8) place.push_back(static_cast<char>(hash >> shift));
  return place;
}

}  // namespace

DatabaseScan::DatabaseScan(rocksdb::DB& db, bool check) {
  rocksdb::ReadOptions options;
  options.verify_checksums = check;
  options.fill_cache = false;
  options.readahead_size = kReadAhead;
  iterator_.reset(db.NewIterator(options));
  options.verify_checksums = true;
  checked_.reset(db.NewIterator(options));
}

DatabaseScan::~DatabaseScan() = default;

rocksdb::Status DatabaseScan::Strictly(std::vector<PlacedRecord>& records) {
  iterator_->SeekToFirst();
  Take(records);
  return iterator_->status();
}

int64_t DatabaseScan::Leniently(std::vector<PlacedRecord>& records) {
  int64_t gaps = 0;
  iterator_->SeekToFirst();
  for (Take(records); !iterator_->status().ok(); Take(records)) {
    ++gaps;
    if (!SkipDamage(records.empty() ? "" : records.back().place)) break;
  }
  return gaps;
}

void DatabaseScan::Take(std::vector<PlacedRecord>& records) {
  for (; iterator_->Valid(); iterator_->Next()) {
    records.push_back({iterator_->key().ToString(), iterator_->value().ToString()});
  }
}

/// Goes on at this place, if the block there is whole (or it is the end). In one that is not, a
/// key may be damaged such that looking for another ends the process by an assertion of
/// RocksDB's; so what lies behind a damaged key is lost up to the next block.
bool DatabaseScan::Readable(const std::string& place) {
  checked_->Seek(place);
  if (!checked_->status().ok()) return false;
  iterator_->Seek(place);
  return iterator_->status().ok();
}

/// Finds the next readable place behind the last good one: in steps that double, then back by
/// halves. Places are hashes, so nothing tells where the next one lies.
bool DatabaseScan::SkipDamage(const std::string& last) {
  const char kind = last.empty() ? '\0' : last[0];
  uint64_t begin = 0;
  for (size_t i = 1; i <= sizeof(begin); ++i) {
    begin = begin << 8 | (i < last.size() ? static_cast<uint8_t>(last[i]) : 0U);
  }
  constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();
  uint64_t step = 1;
  while (step <= (kMost - begin) / 2 && !Readable(Behind(kind, begin + step))) step *= 2;
  if (!Readable(Behind(kind, begin + step))) {
    for (int next = static_cast<uint8_t>(kind) + 1; next <= 'Z'; ++next) {
      if (Readable(std::string(1, static_cast<char>(next)))) return true;
    }
    return false;
  }
  uint64_t bad = begin + step / 2;
  uint64_t good = begin + step;
  while (good - bad > 1) {
    const uint64_t middle = bad + (good - bad) / 2;
    (Readable(Behind(kind, middle)) ? good : bad) = middle;
  }
  return Readable(Behind(kind, good));
}

}  // namespace tandem::kv_store
