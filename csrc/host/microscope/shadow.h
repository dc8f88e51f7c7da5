// Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:917b048a6579

#pragma once

// The memory's memory: who touched each byte last. From it follow races, and reads of what nobody has written.

#include <microscope/regions.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
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

/// What is known of a few bytes that were always touched together. Of those who only read, two are enough to catch
/// every writer that conflicts with any: if both are ordered before it, or are it, so were the ones they replaced. The
/// same is true of those who only change it atomically, and of whoever else touches it then.
struct Cell {
  Touch write;  ///< or the last atomic operation
  Touch read;
  Touch other;          ///< a reader that `read` did not replace: of another warp or block, and not ordered before it
  uint32_t read_lanes;  ///< the lanes of `read`'s warp that read, not ordered among each other
  uint32_t atomics;     ///< which of `Shadow`'s `OtherAtomics` belong to `write`; 0: none
};

/// To an atomic `Cell::write` what `other` and `read_lanes` are to `Cell::read`. Few cells need it.
struct OtherAtomics {
  Touch other;
  uint32_t lanes;
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

  /// Return the one cell of an access, or null if it has more than one, or none yet.
  __attribute__((always_inline)) Cell* only_cell(Region& region, uintptr_t address, uint32_t size) {
    const std::size_t i = (address >> Page::kBits) - (region.begin >> Page::kBits);
    if (i >= region.pages.size() || !region.pages[i]) [[unlikely]]
      return nullptr;
    const Page& page = *region.pages[i];
    if (size != 1u << page.cell_bits || !page.cells) [[unlikely]]
      return nullptr;
    return page.cells + ((address & (Page::kBytes - 1)) >> page.cell_bits);
  }

  OtherAtomics& atomics_of(Cell& cell) {
    if (cell.atomics == 0) {
      cell.atomics = static_cast<uint32_t>(atomics_.size());
      atomics_.push_back({{}, 1u << cell.write.thread % 32});
    }
    return atomics_[cell.atomics];
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
      for (std::size_t i = 0; i < std::size_t{1} << (Page::kBits - bits); ++i) {
        cells[i] = page.cells[i / parts];
        if (i % parts == 0 || cells[i].atomics == 0) continue;
        atomics_.push_back(OtherAtomics(atomics_[cells[i].atomics]));
        cells[i].atomics = static_cast<uint32_t>(atomics_.size() - 1);
      }
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
  std::vector<OtherAtomics> atomics_{1};
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
    known_at_release_.clear();
    settled_fence_ = last_fence_ = 0;
  }

  void sync_block() {
    settled_fence_ = last_fence_;
    phase_start_ = ++now_;
  }

  /// Every one of `lanes` now knows what any of them knew, and did.
  void sync_warp(unsigned warp, uint32_t lanes) {
    Known known{};
    Fences fences{};
    const auto each = [lanes, warp](auto body) {
      for (uint32_t rest = lanes; rest; rest &= rest - 1) {
        const auto lane = static_cast<unsigned>(__builtin_ctz(rest));
        body(lane, warp * 32 + lane);
      }
    };
    each([&](unsigned, unsigned thread) {
      for (unsigned i = 0; i < 32; ++i) known[i] = std::max(known[i], known_[thread][i]);
      fences = {std::max(fences.any, fences_[thread].any), std::max(fences.wide, fences_[thread].wide)};
    });
    each([&](unsigned lane, unsigned) { known[lane] = now_; });
    each([&](unsigned, unsigned thread) {
      known_[thread] = known;
      fences_[thread] = fences;
    });
    for (auto& acquire : acquired_)
      if (acquire.warp == warp && (acquire.lanes & lanes)) acquire.lanes |= lanes;
    ++now_;
  }

  /// A fence that is `wide` orders what other blocks see, too.
  void fence(unsigned thread, bool wide) {
    any_fence_ = true;
    fences_[thread].any = now_;
    if (wide) fences_[thread].wide = last_fence_ = now_;
    ++now_;
  }

  /// An atomic operation at `address`. After a fence it publishes what was written before the fence; and whoever
  /// operates on the same address later gets to know it.
  void atomic(unsigned thread, uintptr_t address) {
    if (!any_fence_) return;
    auto& releases = releases_[address];
    if (!releases.empty()) acquired_.push_back({&releases, releases.size(), now_, thread / 32, 1u << thread % 32});
    const Fences& own = fences_[thread];
    if (own.any < block_start_ && settled_fence_ < block_start_) return;
    releases.push_back(
        {block_start_, std::max(own.wide, settled_fence_), own.any, now_, thread, known_at_release_.size()});
    known_at_release_.push_back(known_[thread]);
  }

  uint32_t now() const { return now_; }
  uint32_t launch_start() const { return launch_start_; }
  uint32_t block_start() const { return block_start_; }

  /// Whether the earlier `touch` is ordered before what `thread` of the current block does now.
  __attribute__((always_inline)) bool before(const Touch& touch, unsigned thread) const {
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
  using Known = std::array<uint32_t, 32>;  ///< until when the thread knows what each lane of its warp did
  struct Fences {
    uint32_t any, wide;  ///< when a thread last fenced; `wide`: for other blocks, too
  };
  struct Release {
    uint32_t block_start;
    uint32_t until, until_in_block;  ///< what was done up to here is published to other blocks, and to its own
    uint32_t at;
    unsigned thread;
    std::size_t known;  ///< in `known_at_release_`, as long as the block runs
  };
  struct Acquire {
    const std::vector<Release>* releases;
    std::size_t count;
    uint32_t time;
    unsigned warp;
    uint32_t lanes;  ///< that know of it
  };

  bool acquired_before(const Touch& touch, unsigned thread) const {
    const uint32_t start = block_at(touch.time).first;
    for (const auto& acquire : acquired_) {
      const bool knows_it = acquire.warp == thread / 32 && (acquire.lanes >> thread % 32 & 1);
      if (start == block_start_ && !knows_it && acquire.time >= phase_start_) continue;
      const auto end = acquire.releases->begin() + static_cast<std::ptrdiff_t>(acquire.count);
      auto release = std::lower_bound(acquire.releases->begin(), end, start,
                                      [](const Release& r, uint32_t s) { return r.block_start < s; });
      for (; release != end && release->block_start == start; ++release)
        if (start == block_start_ ? published_in_block(*release, touch) : published(*release, touch)) return true;
    }
    return false;
  }

  /// The atomic operation that releases is itself seen by whoever acquires.
  static bool published(const Release& release, const Touch& touch) {
    return touch.time <= release.until ||
           (release.until && (touch.instruction & kAtomicBit) && touch.time <= release.at);
  }
  bool published_in_block(const Release& release, const Touch& touch) const {
    if (touch.thread / 32 != release.thread / 32 || touch.time > release.until_in_block) return false;
    return touch.thread == release.thread || touch.time <= known_at_release_[release.known][touch.thread % 32];
  }

  static constexpr unsigned kMaxThreads = 1024;
  uint32_t now_ = 1, launch_start_ = 1, block_start_ = 1, phase_start_ = 1;
  Known known_[kMaxThreads] = {};
  Fences fences_[kMaxThreads] = {};
  uint32_t last_fence_ = 0;     ///< the last wide one of any thread of the block
  uint32_t settled_fence_ = 0;  ///< the same, before the last __syncthreads
  bool any_fence_ = false;
  std::vector<std::pair<uint32_t, uint64_t>> blocks_;  ///< start and number of each block of this launch
  std::unordered_map<uintptr_t, std::vector<Release>> releases_;
  std::vector<Acquire> acquired_;
  std::vector<Known> known_at_release_;
};

/// Several touches of one kind, as a cell remembers them: `lanes` of the warp of `last`, and one from elsewhere.
struct Crowd {
  Touch& last;
  uint32_t& lanes;
  Touch& other;

  /// Return one that nothing orders before what `thread` does now, or one of time 0. Touches older than `oldest` are
  /// none.
  __attribute__((always_inline)) Touch unordered(const Order& order, unsigned thread, uint32_t oldest) const {
    if (last.time >= oldest) {
      if (order.same_phase(last) && last.thread / 32 == thread / 32) {
        for (uint32_t rest = lanes & ~(1u << thread % 32); rest; rest &= rest - 1) {
          const unsigned lane_thread = thread / 32 * 32 + static_cast<unsigned>(__builtin_ctz(rest));
          const Touch touch{last.time, static_cast<uint16_t>(lane_thread), last.instruction};
          if (!order.before(touch, thread)) return touch;
        }
      } else if (!order.before(last, thread)) {
        return last;
      }
    }
    return other.time >= oldest && !order.before(other, thread) ? other : Touch{};
  }

  /// Remember one more, and forget those that are ordered before it.
  __attribute__((always_inline)) void add(const Order& order, Touch me, uint32_t oldest) {
    const uint32_t bit = 1u << me.thread % 32;
    if (last.time >= oldest) {
      const bool beside = order.same_phase(last) && last.thread / 32 == me.thread / 32;
      if (beside && (lanes & bit) && last.time == me.time) return;
      if (beside) {
        for (uint32_t rest = lanes & ~bit; rest; rest &= rest - 1) {
          if (order.knows(me.thread, static_cast<unsigned>(__builtin_ctz(rest)), last.time)) continue;
          lanes |= bit;
          return;
        }
      } else if (!order.before(last, me.thread)) {
        const bool other_counts = other.time >= oldest && !order.before(other, me.thread);
        const bool keep_other = other_counts && other.time < order.block_start();  // of another block: rarer
        if (!keep_other) other = last;
      }
    }
    last = me;
    lanes = bit;
  }
};

/// Note a read of one cell at `order.now()`. Touches older than `oldest` are none. Returns an earlier touch that nothing
/// orders before this one, which is a race, or one of time 0 if there is none.
__attribute__((always_inline)) inline Touch note_read(Shadow& shadow, Cell& cell, const Order& order, Touch me,
                                                      uint32_t oldest) {
  Touch race{};
  if (cell.atomics) [[unlikely]] {
    auto& atomics = shadow.atomics_of(cell);
    race = Crowd{cell.write, atomics.lanes, atomics.other}.unordered(order, me.thread, oldest);
  } else if (cell.write.time >= oldest && !order.before(cell.write, me.thread)) {
    race = cell.write;
  }
  Crowd{cell.read, cell.read_lanes, cell.other}.add(order, me, oldest);
  return race;
}

/// Note a write of one cell.
__attribute__((always_inline)) inline Touch note_write(Shadow& shadow, Cell& cell, const Order& order, Touch me,
                                                       uint32_t oldest) {
  Touch race = Crowd{cell.read, cell.read_lanes, cell.other}.unordered(order, me.thread, oldest);
  if (cell.atomics) [[unlikely]] {
    auto& atomics = shadow.atomics_of(cell);
    const Touch found = Crowd{cell.write, atomics.lanes, atomics.other}.unordered(order, me.thread, oldest);
    if (found.time) race = found;
    atomics = {{}, 1u << me.thread % 32};
  } else if (cell.write.time >= oldest && !order.before(cell.write, me.thread)) {
    race = cell.write;
  }
  cell.write = me;
  return race;
}

/// Note an atomic operation on one cell, which does not race with others of its kind.
inline Touch note_atomic(Shadow& shadow, Cell& cell, const Order& order, Touch me, uint32_t oldest) {
  Touch race = Crowd{cell.read, cell.read_lanes, cell.other}.unordered(order, me.thread, oldest);
  if (cell.write.time >= oldest && (cell.write.instruction & kAtomicBit)) {
    auto& atomics = shadow.atomics_of(cell);
    Crowd{cell.write, atomics.lanes, atomics.other}.add(order, me, oldest);
    return race;
  }
  if (cell.write.time >= oldest && !order.before(cell.write, me.thread)) race = cell.write;
  if (cell.atomics) shadow.atomics_of(cell) = {{}, 1u << me.thread % 32};
  cell.write = me;
  return race;
}

}  // namespace minisgl::microscope
