#include "launcher/option_tables/option_table.h"

#include <utility>

#include "core/model/kv_view.h"
#include "frontend/protocol/request.h"
#include "launcher/option_tables/option_rows.h"

namespace tandem::launcher {
namespace {

OptionRow RanksRow(int& ranks) {
  return Row("-n,--ranks", {&ranks, {1, kMostRanks}},
             "ranks over which the model is sharded; started with mpirun");
}

OptionRow TemplateRow(std::string& choice) {
  return Row("--chat-template", {&choice},
             "chatml, zephyr, or a file with a Jinja template (default: the model's own)");
}

/// How an agent keeps the KV of its host.
Rows AgentRows(StateOptions& o) {
  return {
      Row("--kv-write", {&o.kv_write, {}, Unit::kNone, {"through", "back", "on-evict"}},
          "when saved KV goes from a host's memory to its disk: through (at once), back (soon; "
          "when an answer is done) or on-evict (when memory is full, or the agent ends)"),
      Row("--kv-host-memory", Size(o.kv_host_memory),
          "memory a host for saved KV (default 1GiB); the longest unused makes room"),
      Row("--kv-disk", Size(o.kv_disk),
          "disk space a host for saved KV (default 32GiB); 0: memory only"),
      Row("--kv-tenant", Size(o.kv_tenant),
          "saved KV of one tenant, at most, in either of them (default: no limit); a tenant that "
          "has more loses the longest unused of its own"),
      Row("--agent-ttl", {&o.agent_ttl, {0.1, 1e6}},
          "seconds for which the process that keeps a host's saved KV outlives its last user"),
      Row("--keep-weights", {&o.keep_weights, {}, Unit::kNone, {"auto", "shm", "disk", "off"}},
          "where a host's packed weights stay for the next start, as long as that process lives, "
          "so that the model is not read again: shm (shared memory), disk (below --state), off, or "
          "auto: the first of these that has room"),
  };
}

/// sampling: SamplingParams or SamplingChoices; the others tell of defaults that are found out.
template <typename Sampling>
Rows GenerationRows(frontend::GenerationParams& o, Sampling& sampling,
                    const std::string& max_tokens, const std::string& temperature = "",
                    const std::string& top_p = "") {
  return {
      Row("--max-tokens", {&o.max_tokens, {0, kMostCount - 1}},
          "longest answer in tokens (default: " + max_tokens + ")"),
      Row("--min-tokens", {&o.min_tokens, {0, kMostCount - 1}},
          "tokens of the answer within which neither the model nor --stop ends it; at most those "
          "of --max-tokens, and of the context"),
      Row("--temperature", {&sampling.temperature, {0, 100}},
          "0: always the likeliest token" + temperature),
      Row("--top-k", {&sampling.top_k, {-1, kMostCount - 1}},
          "only the K likeliest tokens; 0 or -1: all"),
      Row("--top-p", {&sampling.top_p, {0, 1}},
          "only the likeliest tokens that together have this probability" + top_p),
      Row("--min-p", {&sampling.min_p, {0, 1}},
          "only tokens with this share of the best one's probability"),
      Row("--repetition-penalty", {&sampling.repetition_penalty, {0.01, 100}},
          "above 1: avoid tokens already there"),
      Row("--presence-penalty", {&sampling.presence_penalty, {-2, 2}},
          "above 0: avoid tokens that the answer has"),
      Row("--frequency-penalty", {&sampling.frequency_penalty, {-2, 2}},
          "above 0: avoid tokens, the more the oftener the answer has them"),
      Row("--seed", {&o.seed}, "of the randomness, any 64-bit number (default: drawn, and told)"),
      Row("--stop", Text(o.stop, 1, double(frontend::ProtocolLimits().stop_bytes)),
          "text that ends the answer; may be given several times"),
  };
}

OptionRow AttentionRow(std::string& attention, bool same = false) {
  return Row(
      "--attention", {&attention},
      "which keys a token sees: dense (all before it); "
      "sparse:window=W[,global=G][,random=R][,seed=S]: the last W, the first G, and R blocks "
      "of 64 chosen at random; or infini:segment=N[,gate=B][,update=delta|linear]: those of its "
      "segment of N, and a memory of fixed size of the segments before",
      same);
}

}  // namespace

Rows ModelRows(ModelOptions& o) {
  return {
      Row("--threads", {&o.threads, {1, 512}},
          "threads a rank (default: the host's cores over its ranks)"),
      Row("--pin", {&o.pin},
          "where threads stay: auto (each rank on a NUMA node of its own, if there are several), "
          "cores (each thread on a core of its own) or none"),
      Row("--isa", {&o.isa},
          "instruction set: auto, scalar, avx2 or avx512 (all give the same bits)"),
      Row("--activations", {&o.activations},
          "q8: 8-bit activations with quantized weights; f32: float activations with dequantized "
          "weights (slow, the reference)",
          kSame),
      Row("--kv-dtype", {&o.kv_dtype},
          "KV cache: f16, f32 or f8 (E4M3: half the memory of f16, less exact); default f16, f32 "
          "with --activations f32",
          kSame),
      AttentionRow(o.attention, kSame),
      Row("--no-limit", {&o.no_limit},
          "with --attention sparse without random blocks, or infini: the model's context limits "
          "no stream, which goes on in the same memory (of text past the context nothing is "
          "promised)",
          kSame),
      Row("--state-interval", {&o.state_interval, {core::kPageTokens, 1 << 30}},
          "with --attention infini: what is remembered is kept every so many tokens besides the "
          "ends of turns, for requests that begin alike (default 2048)"),
      Row("--device", {&o.device},
          "auto, cpu or cuda: each rank on a GPU of its own, in their order on its host"),
      Row("--exact", {&o.exact},
          "the same bits on every device, whatever the batch, chunks and ranks (the default)"),
      Row("--no-exact", {&o.no_exact},
          "let a GPU round otherwise where that is faster: many tokens at once, and weights of "
          "floats",
          kSame),
      Row("--share-gpus", {&o.share_gpus},
          "with --device cuda: a host may have more ranks than GPUs; they share them in turn",
          kSame),
      Row("--gpu-link", {&o.gpu_link},
          "how the GPUs of several ranks meet: nccl, peer (ranks of one host, by memory that all "
          "of "
          "them map), host (through the memory of their hosts), or auto: what is there, the faster "
          "by measurement",
          kSame),
      Row("--no-graphs", {&o.no_graphs},
          "give a GPU its kernels one by one, and not as graphs of whole steps: slower, for "
          "debugging"),
      Row("--weights", {&o.weights, kSpeeds},
          "relative speeds of the ranks, e.g. 1,1,2 (default equal; on GPUs as fast as they copy, "
          "which is measured)",
          kSame),
      Row("--kv-memory", Size(o.kv_memory, 1),
          "memory of the KV cache a rank, e.g. 2GiB; at least one block of every kind of layer "
          "(default: a quarter of what is free on the "
          "host, divided among its ranks; on a GPU what weights and a step leave)",
          kSame),
      Row("--kv-spill-memory", Size(o.kv_spill_memory, 0),
          "host memory a rank for the pages of requests that make room for others, e.g. 4GiB; 0: "
          "they are computed again (default: on a GPU a quarter of its KV cache, up to 2 GiB and "
          "an eighth of what is free on the host; on a CPU 0: there --kv-memory can have it)",
          kSame),
      Row("--prefill-chunk", {&o.prefill_chunk, {1, kMostSteps}},
          "prompt tokens computed in one step; fewer while answers stream, so that these do not "
          "stall",
          kSame),
      Row("--max-running", {&o.max_running, {1, 4096}},
          "requests computed at once, as far as the KV cache has pages for them", kSame),
      Row("--max-waiting", {&o.max_waiting, {0, kMostSteps}},
          "requests that may wait; more are refused as overloaded"),
      Row("--speculate", {&o.speculate},
          "guess tokens ahead from what the text said before and verify them in one step: faster "
          "where it repeats itself, and the same answer"),
      Row("--control-interface", {&o.control_interface},
          "network interface or address from which rank 0 reaches the others"),
      Row("--collective-timeout", {&o.collective_timeout, {0.1, 86400}},
          "seconds after which ranks that hang end the job, naming the laggard: in a collective, "
          "or (at "
          "least 15) at their start"),
  };
}

Rows LaunchRows(LaunchOptions& o) {
  return {RanksRow(o.ranks), Row("--hostfile", Path(o.hostfile), "hosts for mpirun, one a line"),
          Row("--mpirun-arguments", Text(o.mpirun_arguments),
              "further arguments for mpirun, in one string that is split at blanks")};
}

Rows StateRows(StateOptions& o) {
  return Join({Row("--state", Path(o.directory),
                   "directory of what outlives this process, made where it is not there: "
                   "conversations go on after a restart, with their KV, and an answer counts as "
                   "done once its turn is on disk (default: conversations end with the process)"),
               Row("--state-key", Path(o.key_file),
                   "key file (32 bytes, or 64 hexadecimal digits) with which what lies in --state "
                   "is encrypted"),
               Row("--kv-replicas", {&o.kv_replicas, {1, 2}},
                   "hosts of the job that keep each piece of saved KV: 1, or 2, so that the loss "
                   "of one host costs none of it",
                   kSame),
               Row("--durability", {&o.durability, {1, 2}},
                   "hosts whose disks a turn is on before its answer counts as done: 1, this one; "
                   "or 2, another host of the job as well, which can go on with the conversations "
                   "when this one is lost")},
              AgentRows(o));
}

Rows HttpRows(HttpOptions& o) {
  return {
      Row("--http", {&o.address},
          "address and port of the gateway for OpenAI's and Anthropic's clients, as in "
          "127.0.0.1:8080 (this host only) or 0.0.0.0:8080 (all networks), or off; where "
          "the default is taken, it is left out with a warning"),
      Row("--http-hosts", {&o.hosts},
          "names, with commas between, by which clients may call the gateway, besides those of "
          "loopback where it listens there; * allows all"),
      Row("--http-origins", {&o.origins},
          "web pages, with commas between, that may use the gateway, as in https://example.org; * "
          "allows all"),
      Row("--api-key-file", Path(o.key_file),
          "file with API keys, a line each, one of which the gateway's clients must have; "
          "mode 0600"),
      Row("--served-name", Text(o.names),
          "names of the model over HTTP, with commas between: the first is told, the others are "
          "taken, too (default: its file's, and its own)"),
      Row("--max-body", Size(o.max_body, kKiB, kGiB),
          "largest body of a request over HTTP (default 8MiB)"),
      Row("--http-clients", {&o.clients, {1, kMostClients}},
          "connections over HTTP at once; more are refused with 503"),
      Row("--access-log", Path(o.access_log),
          "file to which the gateway adds a line of JSON for each request; - is standard error")};
}

Rows RowsOf(ServeOptions& o) {
  return Join(
      {ModelArgument(o.model.model), Row("--listen", {&o.listen}, "ZeroMQ endpoint for clients"),
       Row("--max-message", Size(o.max_message, kKiB, kGiB),
           "largest request frame (default 1MiB)"),
       Row("--max-clients", {&o.max_clients, {1, kMostClients}},
           "clients that may be connected at once; more are refused as overloaded"),
       TemplateRow(o.chat_template),
       Row("--context-policy", {&o.context_policy},
           "chats longer than the context: stop (refuse them), shift (leave out the oldest "
           "messages, but not the system's) or window:N (read the newest N tokens)"),
       Row("--max-conversations", {&o.max_conversations, {0, kMostCount}},
           "conversations that the server keeps; more are refused as overloaded"),
       Row("--conversation-memory", Size(o.conversation_memory),
           "memory of all kept conversations' text and tokens (default 256MiB)"),
       Row("--resume-grace", {&o.resume_grace, {0, 3600}},
           "seconds for which the requests of a client that is gone go on, so that it may come "
           "back and resume them; 0: they end at once"),
       Row("--drain-timeout", {&o.drain_timeout, {0, 86400}},
           "seconds that answers in progress have after SIGTERM, while new requests are refused as "
           "unavailable; a second SIGTERM, or SIGINT, ends them at once")},
      HttpRows(o.http), StateRows(o.model.state),
      Rows{Row("--recover", {&o.model.state.recover},
               "which conversations to go on with, where several hosts have some: own (those in "
               "--state, or none), ID or ID@HOST (a copy that a host keeps; those in --state are "
               "put aside)")},
      LaunchRows(o.launch),
      Rows{Row("--elastic", {&o.launch.elastic},
               "with -n: `tandem scale` may change the number of ranks while answers go on; with "
               "--hostfile, too, there are fewer ranks while hosts are lost"),
           Row("--spares", Text(o.launch.spares),
               "with --hostfile: hosts, with commas between, that take the place of those that are "
               "lost"),
           Row("--max-restarts", {&o.launch.max_restarts, {0, kMostSteps}},
               "with -n: ranks that die are started again, so often within an hour, and requests "
               "go on where they were; 0: requests fail then, and the server ends")},
      ModelRows(o.model));
}

Rows RowsOf(ChatOptions& o) {
  return Join(
      {Row("MODEL", Path(o.model.model), "model file (.gguf), for an engine of its own"),
       Row("--connect", {&o.connect}, "endpoint of a running server, instead of MODEL"),
       Row("--system", Text(o.system), "system message"),
       Row("--conversation", Text(o.conversation, 1, kMostName),
           "go on with this conversation, which the server keeps (a new one if there is none)"),
       Row("--tenant", Text(o.tenant, 0, kMostName), "whose conversation it is"),
       Row("--context-policy", {&o.context_policy},
           "chats longer than the context: stop, shift or window:N (default: the server's)"),
       TemplateRow(o.chat_template)},
      GenerationRows(o.generation, o.sampling, fmt::to_string(*o.generation.max_tokens),
                     " (default: on a terminal what the model's file recommends, or 0.8; 0 for a "
                     "pipe)",
                     " (default: on a terminal what the model's file recommends, or 0.95)"),
      LaunchRows(o.launch), ModelRows(o.model));
}

Rows RowsOf(GenerateOptions& o) {
  return Join(
      {ModelArgument(o.model.model),
       Row("-p,--prompt", Text(o.prompt),
           "raw text to go on from; -, or a pipe without -p: standard input"),
       Row("--tokens", Text(o.tokens), "token ids to go on from, e.g. 1,2,3"),
       Row("--logits", Path(o.logits_file),
           "write the prompt's logits, float32 [positions, vocab], to this .npy file"),
       JsonRow(o.json),
       Row("--logprobs", {&o.generation.logprobs, {0, parallel::kMostLogprobs}},
           "with --json: the log-probability of every token, and those of this many likeliest "
           "ones"),
       Row("--ignore-eos", {&o.generation.ignore_eos},
           "the model's own end tokens do not end the answer")},
      GenerationRows(o.generation, o.generation.sampling,
                     "until the model ends it, at most the rest of the context; Ctrl-C on a "
                     "terminal ends it sooner"),
      LaunchRows(o.launch), ModelRows(o.model));
}

Rows RowsOf(PerplexityOptions& o) {
  return Join(
      {ModelArgument(o.model.model),
       Required(Row("-f,--file", Path(o.file),
                    "text, taken exactly, but for one newline at its end, which is left out")),
       Row("--context", {&o.context, {1, kMostTokens}},
           "tokens of a chunk, of which the second half counts; a shorter chunk at the end is left "
           "out"),
       Row("--stride", {&o.stride, {1, kMostTokens}},
           "let a chunk begin every STRIDE tokens, have half as many more, and count its last "
           "STRIDE ones"),
       Row("--chunks", {&o.chunks, {1, kMostCount}}, "only so many chunks, from the first"),
       JsonRow(o.json)},
      LaunchRows(o.launch), ModelRows(o.model));
}

Rows RowsOf(BenchOptions& o) {
  return Join(
      {ModelArgument(o.model.model),
       Row("--prompt", {&o.prompt, {1, kMostTokens}},
           "tokens of the prompt whose prefill is measured"),
       Row("--gen", {&o.generated, {2, kMostTokens}},
           "tokens that each sequence gets while decoding is measured"),
       Row("--batch", {&o.batches, {1, 4096}},
           "how many sequences to decode together, e.g. 1,4,16,64"),
       Row("--context", {&o.context, {1, kMostTokens}},
           "tokens of each sequence in the cache before decoding"),
       Row("--rounds", {&o.rounds, {1, 1000}}, "interleaved rounds, of which medians are told"),
       Row("--read-memory", Size(o.read_memory, kMiB),
           "memory a host that is read to measure the bandwidth (default 1GiB)"),
       Row("--json", {&o.json}, kJsonHelp)},
      LaunchRows(o.launch), ModelRows(o.model));
}

Rows RowsOf(PlanCommandOptions& o) {
  return {
      ModelArgument(o.model.model),
      Row("-n,--ranks", {&o.ranks, {1, kMostRanks}},
          "ranks (default: as many as --weights or --memory names, else 1)"),
      Row("--weights", {&o.weights, kSpeeds}, "relative speeds of the ranks, e.g. 1,1,2"),
      Row("--memory", Size(o.memory, 1), "memory for weights of each rank, e.g. 8GiB,8GiB,4GiB"),
      Row("--device", {&o.model.device},
          "auto, cpu or cuda; with cuda also what each rank's GPU must hold, here or elsewhere"),
      Row("--kv-memory", Size(o.model.kv_memory, 1),
          "with --device cuda: memory of the KV cache a rank (default: what --max-running "
          "sequences "
          "of 8192 tokens, or of the model's context, take)"),
      Row("--kv-spill-memory", Size(o.model.kv_spill_memory, 0),
          "with --device cuda: host memory a rank for the pages of requests that make room for "
          "others (default: a quarter of the KV cache, up to 2 GiB)"),
      Row("--kv-dtype", {&o.model.kv_dtype}, "KV cache: f16, f32 or f8 (default f16)"),
      Row("--no-exact", {&o.model.no_exact}, "with --device cuda: what fast mode needs besides"),
      AttentionRow(o.model.attention),
      Row("--prefill-chunk", {&o.model.prefill_chunk, {1, kMostSteps}},
          "prompt tokens computed in one step"),
      Row("--max-running", {&o.model.max_running, {1, 4096}}, "requests computed at once"),
      JsonRow(o.json)};
}

Rows RowsOf(InspectOptions& o) { return {ModelArgument(o.model), JsonRow(o.json)}; }

Rows RowsOf(TokenizeOptions& o) {
  return {ModelArgument(o.model),
          Row("TEXT", Text(o.text), "text, taken exactly; none: standard input"),
          Row("--special", {&o.special}, "recognize control tokens in the text"),
          Row("--bos", {&o.bos}, "add the model's own start token, if it wants one"),
          Row("--json", {&o.json}, "{\"tokens\":[...]}")};
}

Rows RowsOf(DetokenizeOptions& o) {
  return {ModelArgument(o.model),
          Row("TOKENS", Text(o.tokens), "ids, e.g. 1,2,3, or tokenize's JSON"),
          Row("--special", {&o.special}, "spell control tokens too"),
          Row("--json", {&o.json}, "{\"text\":\"...\"}")};
}

Rows RowsOf(TemplateOptions& o) {
  return {ModelArgument(o.model),
          Required(Row("MESSAGES", {&o.messages}, "JSON file of messages; -: standard input")),
          Row("--chat-template", {&o.chat_template},
              "chatml, zephyr, or a file (default: the model's own)"),
          Row("--bos-token", Text(o.bos_token), "text of bos_token (default: the model's)"),
          Row("--eos-token", Text(o.eos_token), "text of eos_token (default: the model's)"),
          Row("--no-generation-prompt", {&o.no_generation_prompt},
              "do not end with the beginning of an answer"),
          Row("--json", {&o.json}, "{\"text\":\"...\",\"tokens\":[...]}")};
}

Rows RowsOf(StatusOptions& o) {
  return {
      Row("--connect", {&o.connect}, "endpoint of the server"),
      Row("--watch", {&o.watch, {}, Unit::kSeconds},
          "look again every SECONDS, from 0.01 to 86400, until Ctrl-C (2 where none are "
          "given)"),
      Row("--json", {&o.json}, "one JSON document on standard output, with --watch one a line")};
}

Rows RowsOf(ScaleOptions& o) {
  return {Required(Row("-n,--ranks", {&o.ranks, {1, kMostRanks}}, "ranks that there are to be")),
          Row("--connect", {&o.connect}, "endpoint of the server"),
          Row("--json", {&o.json}, "{\"ranks\":...,\"epoch\":...,\"seconds\":...}")};
}

Rows RowsOf(WorkerOptions& o) {
  return Join({ModelArgument(o.model.model), RanksRow(o.ranks),
               Row("--epoch", {&o.epoch, {0, kMostCount}}, "which life of the ranks this is")},
              ModelRows(o.model), StateRows(o.model.state));
}

Rows RowsOf(AgentOptions& o) {
  return Join({Required(Row("DIRECTORY", Path(o.directory), "where it is kept"))},
              AgentRows(o.state));
}

Rows RowsOf(AgentStopOptions& o) {
  return {Required(Row("--state", Path(o.state.directory), "state directory of tandem serve"))};
}

}  // namespace tandem::launcher
