#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "frontend/chat/generation.h"
#include "launcher/options/option_sources.h"

namespace tandem::launcher {

/// Exit statuses of the program.
inline constexpr int kExitDone = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;

/// What outlives the processes, and where.
struct StateOptions {
  std::string directory;  // empty: nothing does
  std::string key_file;   // of what lies there; empty: plain bytes
  /// Of the KV, which an agent on each host keeps below `kv/HOST`.
  std::string kv_write = "back";              // through, back, on-evict: from memory to disk
  int64_t kv_host_memory = int64_t{1} << 30;  // bytes a host
  int64_t kv_disk = int64_t{32} << 30;        // bytes a host; 0: none is kept on disk
  int64_t kv_tenant = 0;                      // bytes of one tenant in either; 0: no limit
  int kv_replicas = 1;                        // 2: another host keeps a second copy
  int durability = 1;                         // hosts whose disks have a turn that counts as done
  std::string recover;                        // own, ID, ID@HOST: --recover
  std::string keep_weights = "auto";          // auto, shm, disk, off: host_weights.h
  double agent_ttl = 600;                     // seconds that an agent outlives its last user
};

/// How a model is run, wherever a forward pass runs.
struct ModelOptions {
  std::string model;                 // path of a GGUF file
  std::optional<int> threads;        // a rank; none: the cores of this rank
  std::string pin = "auto";          // auto, none, cores
  std::string isa = "auto";          // auto, scalar, avx2, avx512
  std::string activations = "q8";    // q8, f32
  std::string kv_dtype;              // f16, f32, f8; empty: f16, or f32 with activations f32
  std::string attention = "dense";   // core/model/attention_text.h
  int state_interval = 2048;         // tokens
  bool no_limit = false;             // sequences may be longer than the model's context
  std::string device = "auto";       // auto, cpu, cuda
  bool exact = false;                // asked for, which is the default
  bool no_exact = false;             // a device may be faster, with other bits
  bool share_gpus = false;           // ranks of a host may share its GPUs
  std::string gpu_link = "auto";     // auto, nccl, peer, host
  bool no_graphs = false;            // a GPU is given kernel by kernel
  std::vector<double> weights;       // relative speeds of the ranks; empty: equal
  std::optional<int64_t> kv_memory;  // bytes a rank; none: chosen by free memory
  std::optional<int64_t>
      kv_spill_memory;             // bytes a rank; none: as RankOptions::spill_memory has it
  int prefill_chunk = 512;         // prompt tokens a step
  int max_running = 64;            // requests in progress at once
  int max_waiting = 256;           // requests in the queue
  bool speculate = false;          // guess tokens ahead and verify them in one step
  std::string control_interface;   // where rank 0 sends plans from; empty: chosen
  double collective_timeout = 60;  // seconds until ranks, or their start, count as hanging
  StateOptions state;              // of serve and its ranks
  OptionSources sources;           // of all options of the command
};

/// How many ranks, and where.
struct LaunchOptions {
  int ranks = 0;                      // 0: one, or as many as mpirun started
  std::string hostfile = {};          // for mpirun
  std::string mpirun_arguments = {};  // passed on, split at blanks
  std::string log_level = {};         // of the ranks; empty: their own
  std::string spares = {};            // hosts, with commas between, in place of those that are lost
  bool elastic = false;               // the number of ranks may change
  int max_restarts = 0;               // within an hour, of ranks that die; 0: none
};

/// Of the HTTP gateway; docs/http.md.
struct HttpOptions {
  std::string address = "127.0.0.1:8080";  // off: no gateway
  std::string hosts;                       // names of the server, with commas between
  std::string origins;                     // of web pages, with commas between
  std::string key_file;                    // API keys, a line each; empty: none is asked for
  std::string names;       // of the model, with commas between; empty: its file's, and its own
  std::string access_log;  // a file, or - for standard error; empty: none
  int64_t max_body = int64_t{8} << 20;  // bytes of a request's body
  int64_t clients = 4096;               // connections at once
};

struct ServeOptions {
  ModelOptions model;
  LaunchOptions launch = {.max_restarts = 20};
  HttpOptions http;
  std::string listen = "tcp://127.0.0.1:5555";
  int64_t max_message = int64_t{1} << 20;  // bytes of a request frame
  int64_t max_clients = 256;               // connections at once
  std::string chat_template;               // chatml, zephyr, a file; empty: the model's own
  std::string context_policy = "stop";     // stop, shift, window:N
  int64_t max_conversations = 1024;
  int64_t conversation_memory = int64_t{256} << 20;  // bytes of all conversations
  double resume_grace = 2;                           // seconds for a client that is gone
  double drain_timeout = 30;                         // seconds for answers in progress
};

/// Sampling that was asked for. None: that of a chat on a terminal, and none for a pipe.
struct SamplingChoices {
  std::optional<double> temperature;
  std::optional<int> top_k;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
  std::optional<double> presence_penalty;
  std::optional<double> frequency_penalty;
};

struct ChatOptions {
  ModelOptions model;
  LaunchOptions launch;
  std::string connect;        // endpoint of a server; empty: an engine of our own
  std::string chat_template;  // chatml, zephyr, a file; empty: the model's own
  std::string system;
  std::string conversation;    // kept by the server under this name; empty: by the chat itself
  std::string tenant;          // whose it is
  std::string context_policy;  // stop, shift, window:N; empty: the server's own
  frontend::GenerationParams generation = {
      .max_tokens = 1024, .sampling = {}, .seed = {}, .stop = {}};
  SamplingChoices sampling;  // over those of `generation`
};

struct GenerateOptions {
  ModelOptions model;
  LaunchOptions launch;
  std::optional<std::string> prompt;
  std::optional<std::string> tokens;  // ids, instead of a prompt
  std::string logits_file;
  bool json = false;
  frontend::GenerationParams generation;
};

struct PerplexityOptions {
  ModelOptions model;
  LaunchOptions launch;
  std::string file;               // of the text
  int context = 512;              // tokens of a chunk
  std::optional<int> stride;      // frontend::PerplexityCut
  std::optional<int64_t> chunks;  // only so many, from the first
  bool json = false;
};

struct BenchOptions {
  ModelOptions model;
  LaunchOptions launch;
  int prompt = 512;                           // tokens of the prefill
  int generated = 128;                        // tokens of each sequence while decoding
  std::vector<int> batches = {1, 4, 16, 64};  // sequences decoded together
  int context = 1;                            // tokens in the cache before decoding
  int rounds = 5;                             // medians are of so many
  int64_t read_memory = int64_t{1} << 30;     // bytes a host for the read bandwidth
  bool json = false;
};

struct PlanCommandOptions {
  ModelOptions model;  // its file, and what a GPU's memory depends on
  int ranks = 0;       // 0: as many as `weights` or `memory` has, else one
  std::vector<double> weights;
  std::vector<int64_t> memory;
  bool json = false;
};

struct WorkerOptions {
  ModelOptions model;
  int ranks = 0;
  int64_t epoch = 0;  // which life of the ranks
};

/// The process that keeps a host's KV (kv_agent.h).
struct AgentOptions {
  std::string directory;  // kv/HOST
  StateOptions state;     // but for its directory and key file
};

struct AgentStopOptions {
  StateOptions state;
};

struct InspectOptions {
  std::string model;
  bool json = false;
};

struct TokenizeOptions {
  std::string model;
  std::optional<std::string> text;  // none: standard input
  bool special = false;
  bool bos = false;
  bool json = false;
};

struct DetokenizeOptions {
  std::string model;
  std::optional<std::string> tokens;  // none: standard input
  bool special = false;
  bool json = false;
};

struct TemplateOptions {
  std::string model;
  std::string messages;       // a file, or "-"
  std::string chat_template;  // chatml, zephyr, a file; empty: the model's own
  std::optional<std::string> bos_token;
  std::optional<std::string> eos_token;
  bool no_generation_prompt = false;
  bool json = false;
};

/// What `tandem kv` does with the KV that a state directory keeps on this host.
struct KvOptions {
  StateOptions state;
  bool json = false;
  std::string prefix;        // the beginning of its id, as ls tells it
  std::string conversation;  // empty: none is named
  std::string tenant;
  // gc
  std::optional<double> older_than;  // seconds
  std::optional<int64_t> max_bytes;
  bool dry_run = false;
  bool this_host_alone = false;  // nothing that is missing here is elsewhere
  // export and import
  ModelOptions model;         // its file, and what else its KV depends on
  std::string chat_template;  // chatml, zephyr, a file; empty: the model's own
  std::string text_file;
  std::optional<std::string> system;
  std::string file;   // that is written or read
  std::string trust;  // a public key, or a file of them
};

struct StatusOptions {
  std::string connect = "tcp://127.0.0.1:5555";
  std::optional<double> watch;  // seconds between looks; none: one look
  bool json = false;
  OptionSources sources;
};

struct ScaleOptions {
  std::string connect = "tcp://127.0.0.1:5555";
  int ranks = 0;
  bool json = false;
  OptionSources sources;
};

}  // namespace tandem::launcher
