#pragma once

#include <cstddef>
#include <cstdint>

#include "core/cuda/kernels/cuda_stream.h"

/// All-reduce and all-gather by one kernel on each GPU, in memory that all of them see.
///
/// Each rank has memory of its GPU that the others map: words, then two slots. A reduction has a
/// number, its epoch, from 1 on, the same on all ranks. Its kernel on each rank
///
///  1. writes the rank's values into its own slot epoch % 2,
///  2. stores the epoch into a word of each other rank's memory,
///  3. waits until all others have stored it into its own memory,
///  4. reads the slots of all ranks, in rank order, and writes what they give.
///
/// Steps 2 and 3 are done block by block: a block of threads waits for those of its number, which
/// have written what it reads. All ranks launch the same blocks, since these follow from the size.
///
/// Why a slot may be written again two epochs later without another barrier: let rank a write slot
/// e % 2 in epoch e + 2. Its kernel of epoch e + 1 has ended then, by the order of its stream, so
/// some block of it had seen that rank b stored e + 1. Rank b's kernel of epoch e + 1 stored that,
/// which began after b's kernel of epoch e had ended, again by the order of the stream. So b has
/// read all that it wanted of slot e % 2. This holds for any number of blocks in each of the three
/// epochs. For the same reason a word says e or e + 1 while a rank waits for e, and never less
/// after more.
///
/// The epoch is kept on the device, so that kernels of a graph count on by themselves. A block adds
/// integers exactly and floats in rank order: the same bits on all ranks, in every run.
namespace tandem::core {

inline constexpr int kMostPeers = 16;
inline constexpr unsigned kMostPeerBlocks = 32;  // of a kernel: all of them run at once on any GPU
/// Words and two slots are 2 MiB, which the runtime shares as a whole.
inline constexpr int64_t kPeerBytes = int64_t{2} << 20;
inline constexpr int64_t kPeerSlotBegin = 4096;
inline constexpr int64_t kPeerSlotBytes = (kPeerBytes - kPeerSlotBegin) / 2;

/// What the memory of a rank begins with; all 0 at first.
struct PeerWords {
  uint32_t epoch;     // the last that is done; its own kernels' alone
  uint32_t finished;  // blocks of the kernel that runs; the same
  /// The epoch to which a block of a rank has come; that rank writes it.
  uint32_t came[kMostPeerBlocks][kMostPeers];
};
static_assert(sizeof(PeerWords) <= kPeerSlotBegin && kPeerSlotBytes % 16 == 0);

/// A rank among those whose memory is shared.
struct PeerPlace {
  int rank = 0;
  int ranks = 1;
  std::byte* memory[kMostPeers] = {};  // of each rank, as this GPU sees it; [kPeerBytes] each
  /// Pinned words of the host. Not 0: nobody waits any more, and what a kernel gives is not used.
  const uint32_t* given_up = nullptr;
  /// [ranks]: a thread that waits long for a rank changes its word again and again.
  uint32_t* waits = nullptr;
};

/// Adds values over all ranks, in place. At most kPeerSlotBytes. All ranks call it with the same
/// count.
void LaunchPeerSum(CudaStream stream, const PeerPlace& place, int64_t* values, int64_t count);
void LaunchPeerSum(CudaStream stream, const PeerPlace& place, float* values, int64_t count);

/// Everyone's `bytes` (at most kPeerSlotBytes) at `mine` to all + rank * stride.
void LaunchPeerGather(CudaStream stream, const PeerPlace& place, const std::byte* mine,
                      int64_t bytes, std::byte* all, int64_t stride);

}  // namespace tandem::core
