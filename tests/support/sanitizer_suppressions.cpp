/// What sanitizers must not report, compiled into every test program (they ask for these by name),
/// so that it holds however a test is started.

#ifdef __SANITIZE_THREAD__
// Libraries of the distribution are not built with ThreadSanitizer, so it does not see what orders
// their accesses: ZeroMQ's queues between threads, RocksDB's, and the reference count of
// absl::Status.
extern "C" const char* __tsan_default_suppressions();
extern "C" const char* __tsan_default_suppressions() {
  return "called_from_lib:libzmq.so\n"
         "race:libzmq.so\n"
         "called_from_lib:librocksdb.so\n"
         "race:librocksdb.so\n"
         "race:libsodium.so\n"
         "race:absl::*Status::Unref\n";
}

// A child of a test may have threads of its own.
extern "C" const char* __tsan_default_options();
extern "C" const char* __tsan_default_options() { return "die_after_fork=0"; }
#endif

#ifdef __SANITIZE_ADDRESS__
// The terminal database, which libedit reads, keeps what it has read.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() { return "leak:libtinfo.so\n"; }
#endif
