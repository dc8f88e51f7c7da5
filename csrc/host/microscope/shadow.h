// Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:37cb2546344e

#pragma once

// The memory's memory: who touched each byte last. From it follow races, and reads of what nobody has written.

#include <microscope/regions.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <unordered_map>
#include <utility>
#include <vector>

namespace minisgl::microscope {

/// One access, as the shadow remembers it. Time counts the events that order threads (barriers, fences, starts of
/// blocks), not accesses; 0 is before everything.
struct Touch {
  uint32_t time;
  uint16_t thread;
  uint16_t instruction;  ///< with kAtomicBit if it is atomic
};

inline constexpr uint16_t kAtomicBit = 0x8000;

/// What is known of a few bytes that were always touched together. Two readers are enough to catch every writer that
/// conflicts with any: if both are ordered before it, or are it, so were the ones they replaced.
struct Cell {
  Touch write;
  Touch read;
  Touch other;          ///< a reader that `read` did not replace: of another warp or block, and not ordered before it
  uint32_t read_lanes;  ///< the lanes of `read`'s warp that read, not ordered among each other
  uint32_t unused;
};

/// The cells of 4 KiB. A cell is as large as the smallest access so far; a smaller one splits all cells of the page.
struct Page {
  static constexpr unsigned kBits = 12;
  static constexpr uintptr_t kBytes = uintptr_t{1} << kBits;
  unsigned cell_bits = 0;
  Cell* cells = nullptr;
};

/// Pages by address. Nothing is ever cleared: a touch that is older than the launch, or in shared memory older than the
/// block, counts as none.
class Shadow {
 public:
  /// Call `body(cell, bytes of it)` for every cell of an access inside `region`.
  template <class Body>
  void visit(Region& region, uintptr_t address, uint64_t size, const Body& body) {
    const unsigned smallest = static_cast<unsigned>(__builtin_ctzll(address | size | 16));
    for (const uintptr_t end = address + size; address < end;) {
      Page& page = page_of(region, address);
      if (page.cell_bits > smallest || !page.cells) [[unlikely]]
        prepare(page, smallest);
      const uintptr_t page_end = (address | (Page::kBytes - 1)) + 1;
      const uint32_t bytes = 1u << page.cell_bits;
      Cell* cell = page.cells + ((address & (Page::kBytes - 1)) >> page.cell_bits);
      for (const uintptr_t stop = std::min(end, page_end); address < stop; address += bytes) body(*cell++, bytes);
    }
  }

 private:
  Page& page_of(Region& region, uintptr_t address) {
    const std::size_t i = (address >> Page::kBits) - (region.begin >> Page::kBits);
    if (i >= region.pages.size() || !region.pages[i]) [[unlikely]]
      find_page(region, i, address);
    return *region.pages[i];
  }

  /// Out of line, and so out of the way of every access but a page's first.
  __attribute__((noinline)) void find_page(Region& region, std::size_t i, uintptr_t address) {
    region.pages.resize((region.end() >> Page::kBits) - (region.begin >> Page::kBits) + 1);
    region.pages[i] = &pages_[address >> Page::kBits];
  }

  __attribute__((noinline)) void prepare(Page& page, unsigned bits) {
    Cell* cells = allocate(std::size_t{1} << (Page::kBits - bits));
    if (page.cells) {
      const std::size_t parts = std::size_t{1} << (page.cell_bits - bits);
      for (std::size_t i = 0; i < std::size_t{1} << (Page::kBits - bits); ++i) cells[i] = page.cells[i / parts];
    }
    page.cells = cells;
    page.cell_bits = bits;
  }

  Cell* allocate(std::size_t count) {
    if (count > left_) {
      chunks_.push_back(std::make_unique<Chunk>());
      left_ = Chunk::kBytes / sizeof(Cell);
    }
    left_ -= count;
    return static_cast<Cell*>(chunks_.back()->memory) + left_;
  }

  /// Zeros from the operating system, in huge pages if it has them: most of the cost is in the first touch of a page.
  struct Chunk {
    static constexpr std::size_t kBytes = std::size_t{32} << 20;
    void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    Chunk() {
      if (memory == MAP_FAILED) throw std::bad_alloc();
      madvise(memory, kBytes, MADV_HUGEPAGE);
    }
    ~Chunk() { munmap(memory, kBytes); }
    Chunk(const Chunk&) = delete;
    Chunk& operator=(const Chunk&) = delete;
  };

  std::unordered_map<uintptr_t, Page> pages_;  // its entries never move
  std::vector<std::unique_ptr<Chunk>> chunks_;
  std::size_t left_ = 0;
};

/// What is ordered before what. Blocks run one after the other here, but only atomics with fences order them on a GPU.
class Order {
 public:
  void begin_launch() {
    launch_start_ = ++now_;
    blocks_.clear();
    releases_.clear();
    any_fence_ = false;
  }

  void begin_block(uint64_t block) {
    block_start_ = phase_start_ = ++now_;
    blocks_.push_back({block_start_, block});
    acquired_.clear();
    settled_fence_ = last_fence_ = 0;
  }

  void sync_block() {
    settled_fence_ = last_fence_;
    phase_start_ = ++now_;
  }

  /// Every one of `lanes` now knows what any of them knew, and did.
  void sync_warp(unsigned warp, uint32_t lanes) {
    uint32_t known[32] = {};
    for (unsigned lane = 0; lane < 32; ++lane)
      if (lanes >> lane & 1)
        for (unsigned i = 0; i < 32; ++i) known[i] = std::max(known[i], known_[warp * 32 + lane][i]);
    for (unsigned lane = 0; lane < 32; ++lane)
      if (lanes >> lane & 1) known[lane] = now_;
    for (unsigned lane = 0; lane < 32; ++lane)
      if (lanes >> lane & 1) std::memcpy(known_[warp * 32 + lane], known, sizeof known);
    ++now_;
  }

  void fence(unsigned thread) {
    any_fence_ = true;
    fences_[thread] = last_fence_ = now_++;
  }

  /// An atomic operation at `address`. After a fence it publishes what was written before the fence; and whoever
  /// operates on the same address later gets to know it.
  void atomic(unsigned thread, uintptr_t address) {
    if (!any_fence_) return;
    auto& releases = releases_[address];
    if (!releases.empty()) acquired_.push_back({&releases, releases.size(), now_, thread});
    const uint32_t own = fences_[thread] >= block_start_ ? fences_[thread] : 0;
    const uint32_t until = std::max(own, settled_fence_);
    if (until >= block_start_) releases.push_back({block_start_, until, thread});
  }

  uint32_t now() const { return now_; }
  uint32_t launch_start() const { return launch_start_; }
  uint32_t block_start() const { return block_start_; }

  /// Whether the earlier `touch` is ordered before what `thread` of the current block does now.
  bool before(const Touch& touch, unsigned thread) const {
    if (touch.time >= block_start_) {
      if (touch.thread == thread || touch.time < phase_start_) return true;
      if (touch.thread / 32 == thread / 32 && knows(thread, touch.thread % 32, touch.time)) return true;
    }
    return !acquired_.empty() && acquired_before(touch, thread);
  }

  /// Whether `thread` has met `lane` of its warp at a __syncwarp since `time`.
  bool knows(unsigned thread, unsigned lane, uint32_t time) const { return known_[thread][lane] >= time; }

  bool same_phase(const Touch& touch) const { return touch.time >= phase_start_; }

  /// The block that ran at `time` of this launch, and when it began.
  std::pair<uint32_t, uint64_t> block_at(uint32_t time) const {
    const auto after = std::upper_bound(blocks_.begin(), blocks_.end(), time,
                                        [](uint32_t t, const auto& block) { return t < block.first; });
    return after == blocks_.begin() ? std::pair<uint32_t, uint64_t>{0, 0} : *(after - 1);
  }

 private:
  struct Release {
    uint32_t block_start, until;
    unsigned thread;
  };
  struct Acquire {
    const std::vector<Release>* releases;
    std::size_t count;
    uint32_t time;
    unsigned thread;
  };

  bool acquired_before(const Touch& touch, unsigned thread) const {
    const uint32_t start = block_at(touch.time).first;
    for (const auto& acquire : acquired_) {
      if (start == block_start_ && acquire.thread != thread && acquire.time >= phase_start_) continue;
      const auto end = acquire.releases->begin() + static_cast<std::ptrdiff_t>(acquire.count);
      auto release = std::lower_bound(acquire.releases->begin(), end, start,
                                      [](const Release& r, uint32_t s) { return r.block_start < s; });
      for (; release != end && release->block_start == start; ++release)
        if (release->until >= touch.time && (start != block_start_ || release->thread == touch.thread)) return true;
    }
    return false;
  }

  static constexpr unsigned kMaxThreads = 1024;
  uint32_t now_ = 1, launch_start_ = 1, block_start_ = 1, phase_start_ = 1;
  uint32_t known_[kMaxThreads][32] = {};  ///< until when a thread knows what each lane of its warp did
  uint32_t fences_[kMaxThreads] = {};     ///< when a thread last fenced
  uint32_t last_fence_ = 0;               ///< by any thread of the block
  uint32_t settled_fence_ = 0;            ///< the same, before the last __syncthreads
  bool any_fence_ = false;
  std::vector<std::pair<uint32_t, uint64_t>> blocks_;  ///< start and number of each block of this launch
  std::unordered_map<uintptr_t, std::vector<Release>> releases_;
  std::vector<Acquire> acquired_;
};

/// Note a read of one cell at `order.now()`. Touches older than `oldest` are none. Returns an earlier touch that nothing
/// orders before this one, which is a race, or one of time 0 if there is none.
inline Touch note_read(Cell& cell, const Order& order, Touch me, uint32_t oldest) {
  Touch race{};
  if (cell.write.time >= oldest && !order.before(cell.write, me.thread)) race = cell.write;
  const uint32_t bit = 1u << me.thread % 32;
  const bool same_phase = cell.read.time >= oldest && order.same_phase(cell.read);
  if (same_phase && cell.read.thread == me.thread && cell.read_lanes == bit) return race;
  if (same_phase && cell.read.thread / 32 == me.thread / 32) {  // a lane beside it: remember both, unless ordered
    bool ordered = true;
    for (uint32_t rest = cell.read_lanes & ~bit; rest && ordered; rest &= rest - 1)
      ordered = order.knows(me.thread, static_cast<unsigned>(__builtin_ctz(rest)), cell.read.time);
    if (!ordered) {
      cell.read_lanes |= bit;
      return race;
    }
  } else if (cell.read.time >= oldest && !order.before(cell.read, me.thread)) {
    const bool other_counts = cell.other.time >= oldest && !order.before(cell.other, me.thread);
    const bool keep_other = other_counts && cell.other.time < order.block_start();  // of another block: rarer
    if (!keep_other) cell.other = cell.read;
  }
  cell.read = me;
  cell.read_lanes = bit;
  return race;
}

/// Note a write, or an atomic operation, of one cell.
inline Touch note_write(Cell& cell, const Order& order, Touch me, uint32_t oldest) {
  Touch race{};
  const bool atomic = me.instruction & kAtomicBit;
  if (cell.write.time >= oldest && !(atomic && (cell.write.instruction & kAtomicBit)) &&
      !order.before(cell.write, me.thread))
    race = cell.write;
  if (cell.other.time >= oldest && !order.before(cell.other, me.thread)) race = cell.other;
  if (cell.read.time >= oldest) {
    if (order.same_phase(cell.read) && cell.read.thread / 32 == me.thread / 32) {
      for (uint32_t rest = cell.read_lanes & ~(1u << me.thread % 32); rest; rest &= rest - 1) {
        const auto lane = static_cast<unsigned>(__builtin_ctz(rest));
        if (order.knows(me.thread, lane, cell.read.time)) continue;
        race = {cell.read.time, static_cast<uint16_t>(me.thread / 32 * 32 + lane), cell.read.instruction};
        break;
      }
    } else if (!order.before(cell.read, me.thread)) {
      race = cell.read;
    }
  }
  cell.write = me;
  return race;
}

}  // namespace minisgl::microscope
