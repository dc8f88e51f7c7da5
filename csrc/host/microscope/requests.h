// Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:3b515c9c7918

#pragma once

// How a warp's accesses meet the hardware: 32-byte sectors of global memory, 4-byte banks of shared memory.

#include <microscope/regions.h>

#include <algorithm>
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
  uint64_t addresses[kWarpLanes];
  unsigned count = 0;
  bool sorted = true;
  for (uint32_t rest = request.lanes; rest; rest &= rest - 1) {
    addresses[count] = request.address[__builtin_ctz(rest)];
    sorted &= count == 0 || addresses[count - 1] <= addresses[count];
    ++count;
  }
  if (!sorted) std::sort(addresses, addresses + count);
  uint64_t covered = 0, next_sector = 0, needed = 0, sectors = 0;
  for (unsigned i = 0; i < count; ++i) {
    const uint64_t end = addresses[i] + request.size, last = (end - 1) / kSectorBytes;
    const uint64_t first = std::max(addresses[i] / kSectorBytes, next_sector);
    if (end > covered) needed += end - std::max(addresses[i], covered);
    if (last >= first) sectors += last - first + 1;
    covered = std::max(covered, end);
    next_sector = std::max(next_sector, last + 1);
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
/// for 16 bytes a quarter; of longer accesses, which no instruction makes, the first 16 bytes count.
inline void count_wavefronts(const Request& request, Figure& figure) {
  const unsigned words_per_lane = std::clamp((request.size + kBankBytes - 1) / kBankBytes, 1u, 4u);
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
  /// Thread `thread` of `num_threads` executes the instruction. Returns how often it did before in this block.
  uint32_t add(unsigned thread, unsigned num_threads, uint64_t address, uint32_t size, Region* region) {
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
    request.address[lane] = address;
    request.lanes |= 1u << lane;
    const unsigned lanes = std::min(num_threads - warp * kWarpLanes, kWarpLanes);
    if (request.lanes == ~0u >> (kWarpLanes - lanes)) finish(request);
    return execution;
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

  void finish(Request& request) {
    if (request.lanes == 0) return;
    auto figure = std::find_if(figures_.begin(), figures_.end(),
                               [&](const Figure& known) { return known.region == request.region; });
    if (figure == figures_.end()) figure = figures_.insert(figure, Figure{request.region});
    const auto lanes = static_cast<uint64_t>(__builtin_popcount(request.lanes));
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
