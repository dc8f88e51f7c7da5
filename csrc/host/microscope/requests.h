// Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:82d19ec61cdc

#pragma once

// How a warp's accesses meet the hardware: 32-byte sectors of global memory, 4-byte banks of shared memory.

#include <microscope/regions.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

namespace minisgl::microscope {

inline constexpr unsigned kWarpLanes = 32;
inline constexpr unsigned kSectorBytes = 32;
inline constexpr unsigned kBanks = 32;
inline constexpr unsigned kBankBytes = 4;

/// What the lanes of one warp ask for when they execute one instruction for the k-th time.
struct Request {
  Request() : lanes(0) {}  // the rest is set before it is read
  uint64_t address[kWarpLanes];
  uint32_t lanes;
  uint32_t size;
  Region* region;
};

/// What the requests of one instruction to one region add up to.
struct Figure {
  const Region* region;
  uint64_t accesses = 0, bytes = 0, requests = 0, bytes_needed = 0;
  uint64_t sectors = 0, ideal_sectors = 0;        ///< of global memory
  uint64_t wavefronts = 0, ideal_wavefronts = 0;  ///< of shared memory: passes through the banks
};

/// Add the sectors that a request touches, each counted once however many lanes share it.
inline void count_sectors(const Request& request, Figure& figure) {
  struct Run {
    uint64_t begin, end;
  };
  Run runs[kWarpLanes];  // of lanes that ask for neighbours, or for the same: mostly there are only one or two
  unsigned count = 0;
  bool sorted = true;
  for (uint32_t rest = request.lanes; rest; rest &= rest - 1) {
    const uint64_t begin = request.address[__builtin_ctz(rest)], end = begin + request.size;
    Run* last = count ? &runs[count - 1] : nullptr;
    if (last && begin >= last->begin && begin <= last->end) {
      last->end = std::max(last->end, end);
    } else {
      sorted &= !last || last->begin <= begin;
      runs[count++] = {begin, end};
    }
  }
  if (!sorted) std::sort(runs, runs + count, [](const Run& a, const Run& b) { return a.begin < b.begin; });
  uint64_t covered = 0, next_sector = 0, needed = 0, sectors = 0;
  for (const Run* run = runs; run != runs + count; ++run) {
    const uint64_t last_sector = (run->end - 1) / kSectorBytes;
    const uint64_t first_sector = std::max(run->begin / kSectorBytes, next_sector);
    if (run->end > covered) needed += run->end - std::max(run->begin, covered);
    if (last_sector >= first_sector) sectors += last_sector - first_sector + 1;
    covered = std::max(covered, run->end);
    next_sector = std::max(next_sector, last_sector + 1);
  }
  figure.bytes_needed += needed;
  if (request.region->space != Region::Space::kGlobal) return;
  figure.sectors += sectors;
  figure.ideal_sectors += (needed + kSectorBytes - 1) / kSectorBytes;
}

/// The words that some lanes ask the banks for: a bank delivers one word in a pass, to any number of lanes.
class Banks {
 public:
  void ask(uint64_t word) {
    const unsigned bank = word % kBanks;
    uint64_t* known = words_[bank];
    for (unsigned i = 0; i < depth_[bank]; ++i)
      if (known[i] == word) return;
    known[depth_[bank]++] = word;
    ++distinct_;
    passes_ = std::max<unsigned>(passes_, depth_[bank]);
  }
  unsigned passes() const { return passes_; }
  unsigned fewest_passes() const { return (distinct_ + kBanks - 1) / kBanks; }

 private:
  uint64_t words_[kBanks][kWarpLanes];
  uint8_t depth_[kBanks] = {};
  unsigned distinct_ = 0, passes_ = 0;
};

/// Add the passes through the banks that a request needs. Lanes that ask for 8 bytes are served half a warp at a time,
/// for 16 bytes a quarter.
inline void count_wavefronts(const Request& request, Figure& figure) {
  const unsigned words_per_lane = (request.size + kBankBytes - 1) / kBankBytes;
  const unsigned lanes_per_pass = kWarpLanes / words_per_lane;
  for (unsigned first = 0; first < kWarpLanes; first += lanes_per_pass) {
    Banks banks;
    uint32_t lanes = request.lanes >> first;
    if (lanes_per_pass < kWarpLanes) lanes &= (1u << lanes_per_pass) - 1;
    for (; lanes; lanes &= lanes - 1) {
      const uint64_t address = request.address[first + static_cast<unsigned>(__builtin_ctz(lanes))];
      const uint64_t word = (address - request.region->begin) / kBankBytes;
      for (unsigned i = 0; i < words_per_lane; ++i) banks.ask(word + i);
    }
    figure.wavefronts += banks.passes();
    figure.ideal_wavefronts += banks.fewest_passes();
  }
}

/// Collects the accesses of one instruction in one block into warp requests, and those into figures.
class Requests {
 public:
  /// Thread `thread` of `num_threads` executes the instruction. Returns how often it did before in this block. What is
  /// longer than any machine instruction, or of an odd size, is asked for in pieces, each a request of its own.
  __attribute__((always_inline)) uint32_t add(unsigned thread, unsigned num_threads, uint64_t address, uint32_t size,
                                              Region* region) {
    if (size <= kLongest && std::has_single_bit(size)) [[likely]]
      return add_piece(thread, num_threads, address, size, region);
    const uint32_t piece = 1u << __builtin_ctzll(size | address | kLongest);
    const uint32_t first = add_piece(thread, num_threads, address, piece, region);
    for (uint32_t done = piece; done < size; done += piece)
      if (add_piece(thread, num_threads, address + done, piece, region) >= kMaxExecutions) break;
    return first;
  }

  void end_block() {
    for (auto& requests : warps_)
      for (uint32_t i = 0; i < requests.count; ++i) finish(requests.first[i]);  // those that some lanes have left out
    std::fill(executions_.begin(), executions_.end(), 0);
  }

  /// Hand over the figures of a launch.
  std::vector<Figure> take_figures() { return std::exchange(figures_, {}); }

  /// What a thread executes more often in one block is missing in the figures.
  static constexpr uint32_t kMaxExecutions = 1 << 16;

 private:
  static constexpr uint32_t kLongest = 16;  ///< bytes of a lane's access

  __attribute__((always_inline)) uint32_t add_piece(unsigned thread, unsigned num_threads, uint64_t address,
                                                    uint32_t size, Region* region) {
    const unsigned warp = thread / kWarpLanes, lane = thread % kWarpLanes;
    if (thread >= executions_.size()) [[unlikely]]
      grow(num_threads);
    const uint32_t execution = executions_[thread]++;
    auto& requests = warps_[warp];
    if (execution >= requests.count) [[unlikely]] {
      if (execution >= kMaxExecutions) return execution;
      requests.grow();
    }
    Request& request = requests.first[execution];
    if (request.lanes == 0) request.size = size, request.region = region;
    if (request.size != size) [[unlikely]] {  // pieces of another size are a request of their own
      count_alone(address, size, region);
      return execution;
    }
    request.address[lane] = address;
    request.lanes |= 1u << lane;
    const unsigned lanes = std::min(num_threads - warp * kWarpLanes, kWarpLanes);
    if (request.lanes == ~0u >> (kWarpLanes - lanes)) finish(request);
    return execution;
  }

  /// The requests of one warp, by execution.
  struct OfWarp {
    std::vector<Request> all;
    Request* first = nullptr;
    uint32_t count = 0;

    __attribute__((noinline)) void grow() {
      all.resize(std::min<std::size_t>(std::max<std::size_t>(2 * all.size(), 1), kMaxExecutions));
      first = all.data();
      count = static_cast<uint32_t>(all.size());
    }
  };

  __attribute__((noinline)) void grow(unsigned num_threads) {
    executions_.resize(num_threads);
    warps_.resize((num_threads + kWarpLanes - 1) / kWarpLanes);
  }

  __attribute__((noinline)) void count_alone(uint64_t address, uint32_t size, Region* region) {
    Request request;
    request.lanes = 1;
    request.address[0] = address;
    request.size = size;
    request.region = region;
    finish(request);
  }

  void finish(Request& request) {
    if (request.lanes == 0) return;
    auto figure = std::find_if(figures_.begin(), figures_.end(),
                               [&](const Figure& known) { return known.region == request.region; });
    if (figure == figures_.end()) figure = figures_.insert(figure, Figure{request.region});
    const uint64_t lanes = request.lanes == ~0u ? kWarpLanes : static_cast<uint64_t>(std::popcount(request.lanes));
    figure->accesses += lanes;
    figure->bytes += lanes * request.size;
    figure->requests += 1;
    count_sectors(request, *figure);
    if (request.region->space != Region::Space::kGlobal) count_wavefronts(request, *figure);
    request.lanes = 0;
  }

  std::vector<uint32_t> executions_;  // by thread
  std::vector<OfWarp> warps_;
  std::vector<Figure> figures_;
};

}  // namespace minisgl::microscope
