// Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:219fdddd65f4

// The microscope's recorder. A kernel that is compiled with -fsanitize=thread calls a function before every access to
// memory. Those functions are defined here: they look at the access, and then let it happen, or end the launch.

#include <link.h>
#include <microscope/instruction.h>
#include <microscope/regions.h>
#include <microscope/requests.h>
#include <microscope/shadow.h>
#include <minisgl/ffi.h>
#include <minisgl/tensor.h>
#include <minisgl/utils.h>
#include <pthread.h>
#include <recorder.h>
#include <runtime.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

namespace minisgl::microscope {
namespace {

/// A row of `View.accesses`.
struct AccessRecord {
  uint64_t block, address;
  int64_t offset;
  uint32_t step, execution;
  uint16_t launch, thread, instruction, memory;
  uint32_t size, phase;
};
static_assert(sizeof(AccessRecord) == 48);

/// A row of `View.events`.
struct EventRecord {
  enum Kind : uint8_t { kArrive, kBlockMet, kWarpMet };
  uint64_t block;
  uint32_t step, mask;
  uint16_t launch, thread, site;
  Kind kind;
  host::Wait wait;
};
static_assert(sizeof(EventRecord) == 24);

/// One side of a finding.
struct Side {
  static constexpr uint16_t kNone = 0xffff;
  uint16_t instruction = kNone;
  Kind kind{};
  uint64_t block = 0;
  unsigned thread = 0;
};

/// Something that is wrong, where it was seen first, and how often in all.
struct Finding {
  const char* kind = "";
  uint16_t launch = 0;
  const Region* region = nullptr;
  int64_t offset = 0;  ///< in bytes from the region's first
  uintptr_t address = 0;
  uint32_t size = 0;  ///< or the alignment that is missing
  Side here, before;  ///< `before` is set for races only
  std::string detail;
  bool fatal = false;  ///< the launch was ended because of it
  uint64_t count = 0;
};

/// What the cells of an access tell.
struct Seen {
  Touch race{};
  bool unwritten = false, written = false;
};

struct LaunchRecord {
  std::string function;
  host::Launch launch;
  bool finished = false, instrumented = true;
  bool explained = false;  ///< ended because of a finding, which tells why
};

struct Options {
  std::set<uint64_t> blocks;        ///< whose accesses and events are kept
  std::size_t max_records = 0;      ///< of each kind
  std::set<std::string> undefined;  ///< arguments that nobody has written yet
};

/// A text of JSON: no library is needed to write it.
class Json {
 public:
  Json& open(char bracket) { return item(std::string(1, bracket)), fresh_ = true, *this; }
  Json& close(char bracket) { return text_ += bracket, fresh_ = false, *this; }
  Json& key(const char* name) { return value(name), text_ += ':', fresh_ = true, *this; }
  template <std::integral T>
  Json& value(T number) {
    if constexpr (std::is_same_v<T, bool>)
      return item(number ? "true" : "false");
    else
      return item(std::to_string(number));
  }
  Json& value(const std::string& text) {
    std::string quoted = "\"";
    for (const char c : text) {
      if (c == '"' || c == '\\') quoted += '\\';
      quoted += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
    return item(quoted + '"');
  }
  template <class T>
  Json& value(const std::vector<T>& items) {
    open('[');
    for (const auto& entry : items) value(entry);
    return close(']');
  }
  template <class T>
  Json& field(const char* name, const T& content) {
    return key(name).value(content);
  }
  const std::string& text() const { return text_; }

 private:
  Json& item(const std::string& text) {
    if (!fresh_) text_ += ',';
    text_ += text;
    fresh_ = false;
    return *this;
  }
  std::string text_;
  bool fresh_ = true;
};

constexpr const char* kCut = "the window holds more accesses or events than max_records; the rest of them is left out";
constexpr const char* kManyExecutions =
    "a thread executed an instruction more than 65536 times in a block; figures count the first 65536";
constexpr const char* kManyLaunches = "there were more launches than one observation holds; the last ones are left out";

/// One observation: from `begin` to `end`, of all launches of one OS thread.
class Recorder final : public host::Observer {
 public:
  explicit Recorder(Options options);

  // What the launch tells.
  void begin_launch(const host::Launch& launch) override;
  void end_launch() override;
  void begin_block(uint64_t block) override;
  void end_block() override;
  void arrive(unsigned thread, const host::Request& request) override;
  void sync_block() override;
  void sync_warp(unsigned warp, uint32_t lanes) override;

  // What the glue between Python and the launch tells.
  void observe_call(const char* function);
  void observe_tensor(int position, const DLTensor* tensor);
  void name_tensor(const void* data, const char* name);
  void observe_write(uintptr_t address, std::size_t bytes);

  // What the instrumented kernel tells.
  template <Kind kKind>
  void access(const void* pc, uintptr_t address, uint32_t size);
  void look(const void* pc, uintptr_t address, uint32_t size);
  void fence(bool wide);
  void wrong_value(const void* pc, const char* kind, const std::string& detail, bool fatal);
  void misaligned(const void* pc, Kind kind, uintptr_t address, uint32_t alignment, const std::string& type);

  const std::string& report();
  const std::vector<AccessRecord>& accesses() const { return accesses_; }
  const std::vector<EventRecord>& events() const { return events_; }

 private:
  unsigned thread() const {
    const unsigned* i = launch_.thread_idx;
    return i[0] + launch_.block[0] * (i[1] + launch_.block[1] * i[2]);
  }
  Region& locate(Instruction& instruction, const void* pc, uintptr_t address, uint32_t size);
  Region* find_region(uintptr_t address, uint32_t size);
  Region* find_stack(uintptr_t address);
  const Library& library_of(const void* code);
  void ignore(const Range& range);
  void use(Region& region);
  template <Kind kKind>
  void check(Instruction& instruction, Region& region, uintptr_t address, uint32_t size, unsigned thread);
  template <Kind kKind>
  void check_cell(Cell& cell, uint32_t bytes, Region& region, Touch me, Seen& seen);
  void keep(const Instruction& instruction, const Region& region, uintptr_t address, uint32_t size, unsigned thread,
            uint32_t execution);
  void keep_event(EventRecord::Kind kind, unsigned thread, uint32_t mask, const host::Request* request);
  uint16_t site(const host::Request& request);
  Finding& found(const char* kind, Instruction& here, uint16_t before, const Region* region);
  Finding& found_at(const char* kind, Instruction& here, uint16_t before, const Region& region, uintptr_t address,
                    uint32_t size);
  void found_race(const Touch& race, Instruction& here, const Region& region, uintptr_t address, uint32_t size);
  [[noreturn]] void outside(Instruction& instruction, uintptr_t address, uint32_t size);
  void many_executions(Instruction& instruction, uintptr_t address, unsigned thread, uint32_t execution);
  [[noreturn]] void end_launch_because_of(Finding& finding, const std::string& message);
  void note(const std::string& text) { notes_.insert(text); }
  void cut() {
    if (!is_cut_) note(kCut);
    is_cut_ = true;
  }

  static constexpr std::size_t kMaxMemories = 60'000;
  static constexpr std::size_t kMaxSharedBytes = 227 * 1024;  ///< of the buffer for dynamic shared memory
  static constexpr uint32_t kPatience = 1 << 26;              ///< about a second
  Options options_;
  Shadow shadow_;
  Order order_;
  Instructions instructions_;

  // Of the call.
  std::string function_;
  std::vector<Region> tensors_;

  // Of the launch.
  host::Launch launch_{};
  unsigned num_threads_ = 0;
  const Library* library_ = nullptr;            ///< that of the kernel
  const Library::Loop* kernel_loop_ = nullptr;  ///< which tells the kernel
  bool shared_arrays_listed_ = false;
  std::vector<Region*> regions_;                     ///< what the kernel may touch
  Region* dynamic_shared_ = nullptr;                 ///< one of them
  std::vector<std::unique_ptr<Library>> libraries_;  ///< those seen so far
  std::vector<std::unique_ptr<Region>> ignored_;     ///< the libraries' own data, and this OS thread's stack
  std::map<uintptr_t, Region> stacks_;               ///< of threads that wait, by their lowest address
  Region* recent_stacks_[1024] = {};                 ///< some of them, by where they are

  bool watches_ = false;  ///< false if there were too many launches before

  // Of the block.
  bool in_block_ = false;
  bool in_window_ = false;
  uint64_t block_ = 0;
  uint32_t phase_ = 0;
  std::vector<Instruction*> active_;

  // Results.
  std::vector<LaunchRecord> launches_;
  std::deque<Region> all_regions_;  ///< its entries never move
  std::vector<Region*> memories_;
  std::vector<std::tuple<std::size_t, uint16_t, Figure>> figures_;  ///< launch, instruction, figure
  std::map<std::tuple<std::string_view, uint16_t, uint16_t>, Finding> findings_;
  std::vector<AccessRecord> accesses_;
  std::vector<EventRecord> events_;
  std::vector<host::Request> sites_;
  std::set<std::string> notes_;
  bool is_cut_ = false;
  uint32_t step_ = 0;
  std::string report_;
};

/// That of this OS thread, while it observes. Other threads may launch kernels meanwhile, unobserved.
__attribute__((tls_model("initial-exec"))) thread_local Recorder* recorder = nullptr;

Region dynamic_shared_region(const host::Launch& launch) {
  Region region;
  region.space = Region::Space::kDynamicShared;
  region.name = "dynamic shared memory";
  region.begin = reinterpret_cast<uintptr_t>(launch.dynamic_shared);
  region.span = launch.dynamic_shared_bytes;
  region.shape = {static_cast<int64_t>(region.span)};
  region.strides = {1};
  return region;
}

// ---- Launches and blocks ----

Recorder::Recorder(Options options) : options_(std::move(options)) {
  pthread_attr_t attributes;
  if (pthread_getattr_np(pthread_self(), &attributes) != 0) return;
  void* bottom = nullptr;
  std::size_t bytes = 0;
  pthread_attr_getstack(&attributes, &bottom, &bytes);
  pthread_attr_destroy(&attributes);
  const auto begin = reinterpret_cast<uintptr_t>(bottom);
  ignore({begin, begin + bytes});
}

void Recorder::begin_launch(const host::Launch& launch) {
  if (recorder != this) return;
  watches_ = memories_.size() + tensors_.size() < kMaxMemories && launches_.size() < kMaxMemories;
  if (!watches_) return note(kManyLaunches);
  launch_ = launch;
  num_threads_ = launch.block[0] * launch.block[1] * launch.block[2];
  order_.begin_launch();
  for (const auto& instruction : instructions_.all()) instruction->region = instructions_.nowhere();
  library_ = &library_of(launch.code);
  launches_.push_back({.function = function_, .launch = launch, .instrumented = library_->instrumented()});

  regions_.clear();
  for (const auto& tensor : tensors_) {
    use(*regions_.emplace_back(&all_regions_.emplace_back(tensor)));
    regions_.back()->undefined = options_.undefined.contains(tensor.name);
  }
  dynamic_shared_ = regions_.emplace_back(&all_regions_.emplace_back(dynamic_shared_region(launch)));
  kernel_loop_ = nullptr;
  shared_arrays_listed_ = false;
}

void Recorder::end_launch() {
  if (recorder != this || !watches_) return;
  launches_.back().finished = !in_block_;
  if (in_block_) end_block();  // the launch has failed in the middle of it
  const auto launch = launches_.size() - 1;
  for (const auto& instruction : instructions_.all())
    for (const auto& figure : instruction->requests.take_figures())
      figures_.push_back({launch, instruction->id, figure});
  for (Region* region : regions_) region->pages = {};
}

void Recorder::begin_block(uint64_t block) {
  if (recorder != this || !watches_) return;
  block_ = block;
  phase_ = 0;
  order_.begin_block(block);
  in_window_ = options_.blocks.contains(block);
  in_block_ = true;
}

void Recorder::end_block() {
  if (recorder != this || !in_block_) return;
  for (Instruction* instruction : active_) {
    instruction->requests.end_block();
    instruction->active = false;
  }
  active_.clear();
  in_block_ = false;
}

void Recorder::arrive(unsigned thread, const host::Request& request) {
  if (recorder == this) keep_event(EventRecord::kArrive, thread, request.mask, &request);
}

void Recorder::sync_block() {
  if (recorder != this) return;
  keep_event(EventRecord::kBlockMet, 0, 0, nullptr);
  order_.sync_block();
  ++phase_;
}

void Recorder::sync_warp(unsigned warp, uint32_t lanes) {
  if (recorder != this) return;
  keep_event(EventRecord::kWarpMet, warp * kWarpLanes, lanes, nullptr);
  order_.sync_warp(warp, lanes);
}

const Library& Recorder::library_of(const void* code) {
  for (const auto& library : libraries_)
    if (library->holds(code)) return *library;
  const auto& library = *libraries_.emplace_back(std::make_unique<Library>(code));
  for (const auto& range : library.own_data()) ignore(range);
  return library;
}

/// Let kernels touch this memory without a word.
void Recorder::ignore(const Range& range) {
  auto& region = *ignored_.emplace_back(std::make_unique<Region>());
  region.begin = range.begin;
  region.span = range.end - range.begin;
}

/// List a region among the results.
void Recorder::use(Region& region) {
  region.index = static_cast<uint16_t>(std::min<std::size_t>(memories_.size(), 0xfffe));
  region.launch = static_cast<uint16_t>(launches_.size() - 1);
  memories_.push_back(&region);
}

// ---- The tensors of a call ----

void Recorder::observe_call(const char* function) {
  function_ = function;
  tensors_.clear();
}

void Recorder::observe_tensor(int position, const DLTensor* tensor) {
  if (tensor->device.device_type == kDLCPU) tensors_.push_back(tensor_region(position, tensor));
}

void Recorder::name_tensor(const void* data, const char* name) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  for (auto& tensor : tensors_) {
    if (tensor.begin != address || tensor.named) continue;
    tensor.name = name;
    tensor.named = true;
    return;
  }
}

void Recorder::observe_write(uintptr_t address, std::size_t bytes) {
  if (options_.undefined.empty() || bytes == 0) return;
  Region region;
  region.begin = address;
  region.span = bytes;
  const Touch touch{order_.now(), 0, 0};
  shadow_.visit(region, address, bytes, [&](Cell& cell, uint32_t) { cell.write = touch; });
}

// ---- Accesses ----

void Recorder::fence(bool wide) {
  if (in_block_) order_.fence(thread(), wide);
}

template <Kind kKind>
void Recorder::access(const void* pc, uintptr_t address, uint32_t size) {
  if (!in_block_) {
    if (kKind != Kind::kLoad) observe_write(address, size);  // by the launcher
    return;
  }
  Instruction& instruction = instructions_.find(pc, kKind, size);
  if (!instruction.region->contains(address, size)) [[unlikely]]
    instruction.region = &locate(instruction, pc, address, size);
  Region& region = *instruction.region;
  if (region.space == Region::Space::kIgnored) return;
  if (kKind == Kind::kAtomic && address % size != 0) [[unlikely]]
    misaligned(pc, kKind, address, size, "");
  if (!instruction.active) {
    instruction.active = true;
    active_.push_back(&instruction);
    if (instruction.id == Instruction::kUnlisted) instructions_.list(instruction);
  }
  const unsigned thread = this->thread();
  if (kKind == Kind::kAtomic) order_.atomic(thread, address);
  check<kKind>(instruction, region, address, size, thread);
  const uint32_t execution = instruction.requests.add(thread, num_threads_, address, size, &region);
  if (execution >= Requests::kMaxExecutions) [[unlikely]]
    many_executions(instruction, address, thread, execution);
  if (in_window_) keep(instruction, region, address, size, thread, execution);
}

/// As `access`, for what must be inside but is no access that the source names: an atomic's first look at a value.
void Recorder::look(const void* pc, uintptr_t address, uint32_t size) {
  if (!in_block_) return;
  Instruction& instruction = instructions_.find(pc, Kind::kLoad, size);
  if (!instruction.region->contains(address, size)) instruction.region = &locate(instruction, pc, address, size);
}

/// Find the region that an access lies in. If there is none, the launch ends here, before the access happens.
Region& Recorder::locate(Instruction& instruction, const void* pc, uintptr_t address, uint32_t size) {
  if (!kernel_loop_) kernel_loop_ = library_->loop_at(pc);
  if (Region* stack = find_stack(address)) return *stack;
  if (Region* region = find_region(address, size)) return *region;
  const auto dynamic_shared =
      reinterpret_cast<uintptr_t>(launch_.dynamic_shared);  // it lies in a variable, if anywhere
  for (const auto& region : ignored_)
    if (region->contains(address, size) && !region->contains(dynamic_shared, 1)) return *region;
  if (!shared_arrays_listed_) {
    for (auto& array : library_->shared_arrays(kernel_loop_))
      regions_.push_back(&all_regions_.emplace_back(std::move(array)));
    shared_arrays_listed_ = true;
    if (Region* region = find_region(address, size)) return *region;
  }
  outside(instruction, address, size);
}

/// Return what the kernel may touch and holds these bytes, or null.
Region* Recorder::find_region(uintptr_t address, uint32_t size) {
  for (Region* region : regions_) {
    if (!region->contains(address, size)) continue;
    if (region->index == Region::kUnlisted) use(*region);
    return region;
  }
  return nullptr;
}

/// Return the stack that runs, if `address` is on it. Threads that wait have stacks of their own; the kernel's list of
/// mappings tells where they are.
Region* Recorder::find_stack(uintptr_t address) {
  const auto frame = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
  constexpr uintptr_t kFar = 1024 * 1024;  // of a stack's size, see fiber.h
  if (address - frame + kFar > 2 * kFar) return nullptr;
  Region*& recent = recent_stacks_[(frame >> 16) % std::size(recent_stacks_)];
  if (recent && recent->contains(frame, 1)) return recent->contains(address, 1) ? recent : nullptr;
  if (const auto after = stacks_.upper_bound(frame); after != stacks_.begin())
    if (auto& stack = std::prev(after)->second; stack.contains(frame, 1)) {
      recent = &stack;
      return stack.contains(address, 1) ? &stack : nullptr;
    }
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    uintptr_t begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx", &begin, &end) != 2 || frame < begin || frame >= end) continue;
    auto& stack = stacks_[begin];
    stack.begin = begin;
    stack.span = end - begin;
    return stack.contains(address, 1) ? &stack : nullptr;
  }
  return nullptr;
}

template <Kind kKind>
__attribute__((always_inline)) inline void Recorder::check_cell(Cell& cell, uint32_t bytes, Region& region, Touch me,
                                                                Seen& seen) {
  const bool global = region.space == Region::Space::kGlobal;
  const uint32_t oldest = global ? order_.launch_start() : order_.block_start();
  if (kKind != Kind::kStore) {
    const bool known = global ? !region.undefined || cell.write.time != 0 : cell.write.time >= oldest;
    (known ? seen.written : seen.unwritten) = true;
  }
  uint64_t& counted = kKind == Kind::kLoad ? region.bytes_read : region.bytes_written;
  if (global && (kKind == Kind::kLoad ? cell.read : cell.write).time < oldest) counted += bytes;
  Touch race;
  if constexpr (kKind == Kind::kLoad) race = note_read(shadow_, cell, order_, me, oldest);
  if constexpr (kKind == Kind::kStore) race = note_write(shadow_, cell, order_, me, oldest);
  if constexpr (kKind == Kind::kAtomic) race = note_atomic(shadow_, cell, order_, me, oldest);
  if (race.time) [[unlikely]]
    seen.race = race;
}

template <Kind kKind>
void Recorder::check(Instruction& instruction, Region& region, uintptr_t address, uint32_t size, unsigned thread) {
  constexpr uint16_t kBit = kKind == Kind::kAtomic ? kAtomicBit : 0;
  const Touch me{order_.now(), static_cast<uint16_t>(thread), static_cast<uint16_t>(instruction.id | kBit)};
  Seen seen;
  if (Cell* cell = shadow_.only_cell(region, address, size)) [[likely]]
    check_cell<kKind>(*cell, size, region, me, seen);
  else
    shadow_.visit(region, address, size,
                  [&](Cell& part, uint32_t bytes) { check_cell<kKind>(part, bytes, region, me, seen); });
  // A structure is copied whole, and the bytes between its members are never written.
  const bool may_have_padding = seen.written && (size >= 8 || !std::has_single_bit(size));
  if (seen.unwritten && !may_have_padding) [[unlikely]]
    found_at("read before write", instruction, Side::kNone, region, address, size);
  if (seen.race.time) [[unlikely]]
    found_race(seen.race, instruction, region, address, size);
}

// ---- Findings ----

/// Return the finding of this kind at these instructions, new or known, counted once more.
Finding& Recorder::found(const char* kind, Instruction& here, uint16_t before, const Region* region) {
  if (here.id == Instruction::kUnlisted) instructions_.list(here);
  const auto [entry, is_new] = findings_.try_emplace({kind, here.id, before});
  Finding& finding = entry->second;
  if (is_new) {
    finding.kind = kind;
    finding.launch = static_cast<uint16_t>(launches_.size() - 1);
    finding.region = region;
    finding.here = {here.id, here.kind, block_, thread()};
  }
  ++finding.count;
  return finding;
}

Finding& Recorder::found_at(const char* kind, Instruction& here, uint16_t before, const Region& region,
                            uintptr_t address, uint32_t size) {
  Finding& finding = found(kind, here, before, &region);
  if (finding.count > 1) return finding;
  finding.offset = static_cast<int64_t>(address - region.begin);
  finding.size = size;
  return finding;
}

void Recorder::found_race(const Touch& race, Instruction& here, const Region& region, uintptr_t address,
                          uint32_t size) {
  const char* kind = race.time < order_.block_start() ? "race between blocks" : "race";
  const auto before = static_cast<uint16_t>(race.instruction & ~kAtomicBit);
  Finding& finding = found_at(kind, here, before, region, address, size);
  if (finding.count > 1) return;
  const auto [start, block] = order_.block_at(race.time);
  finding.before = {before, instructions_.listed()[before]->kind, block, race.thread};
}

/// Name the memory nearest to an access outside all of it, and end the launch.
void Recorder::outside(Instruction& instruction, uintptr_t address, uint32_t size) {
  const Region* nearest = nullptr;
  uint64_t least = 0;
  for (Region* region : regions_) {
    if (region == dynamic_shared_ && address - region->begin < kMaxSharedBytes) {
      nearest = region;
      break;
    }
    if (region->span == 0) continue;
    const uint64_t distance = address < region->begin   ? region->begin - address
                              : address < region->end() ? 0
                                                        : address - region->end();
    if (nearest && distance >= least) continue;
    nearest = region;
    least = distance;
  }
  for (Region* region : regions_)
    if (region == nearest && region->index == Region::kUnlisted) use(*region);
  Finding& finding = found("out of bounds", instruction, Side::kNone, nearest);
  finding.offset = nearest ? static_cast<int64_t>(address - nearest->begin) : 0;
  finding.address = address;
  finding.size = size;
  end_launch_because_of(finding, "an access outside the kernel's memory");
}

/// A check that the compiler put in front of an operation has failed.
void Recorder::wrong_value(const void* pc, const char* kind, const std::string& detail, bool fatal) {
  if (!in_block_) return;
  Finding& finding = found(kind, instructions_.find(pc, Kind::kCheck, 0), Side::kNone, nullptr);
  if (finding.count == 1) finding.detail = detail;
  if (fatal) end_launch_because_of(finding, kind);
}

/// `address` is no multiple of `alignment`, as an access of `type`, or an atomic operation, needs it.
void Recorder::misaligned(const void* pc, Kind kind, uintptr_t address, uint32_t alignment, const std::string& type) {
  if (!in_block_) return;
  Finding& finding = found("misaligned", instructions_.find(pc, kind, alignment), Side::kNone, find_region(address, 1));
  finding.offset = finding.region ? static_cast<int64_t>(address - finding.region->begin) : 0;
  finding.address = address;
  finding.size = alignment;
  finding.detail = type;
  end_launch_because_of(finding, finding.kind);
}

/// Figures end here. A thread that comes back to one address for ever waits for another one; here each runs until it
/// meets others at a barrier or collective, so that may never happen.
void Recorder::many_executions(Instruction& instruction, uintptr_t address, unsigned thread, uint32_t execution) {
  if (execution == Requests::kMaxExecutions) note(kManyExecutions);
  auto& patience = instruction.patience;
  if (patience.address != address || patience.thread != thread) patience = {address, thread, 0};
  if (++patience.times < kPatience) return;
  Finding& finding = found("endless wait", instruction, Side::kNone, instruction.region);
  finding.offset = static_cast<int64_t>(address - finding.region->begin);
  finding.size = instruction.size;
  end_launch_because_of(finding, finding.kind);
}

void Recorder::end_launch_because_of(Finding& finding, const std::string& message) {
  finding.fatal = launches_.back().explained = true;
  host::abandon((message + "; the microscope's findings name it").c_str());
}

// ---- Records of the window ----

void Recorder::keep(const Instruction& instruction, const Region& region, uintptr_t address, uint32_t size,
                    unsigned thread, uint32_t execution) {
  if (accesses_.size() >= options_.max_records) return cut();
  accesses_.push_back({.block = block_,
                       .address = address,
                       .offset = static_cast<int64_t>(address - region.begin),
                       .step = step_++,
                       .execution = execution,
                       .launch = static_cast<uint16_t>(launches_.size() - 1),
                       .thread = static_cast<uint16_t>(thread),
                       .instruction = instruction.id,
                       .memory = region.index,
                       .size = size,
                       .phase = phase_});
}

void Recorder::keep_event(EventRecord::Kind kind, unsigned thread, uint32_t mask, const host::Request* request) {
  if (!in_window_ || !in_block_) return;
  if (events_.size() >= options_.max_records) return cut();
  events_.push_back({.block = block_,
                     .step = step_++,
                     .mask = mask,
                     .launch = static_cast<uint16_t>(launches_.size() - 1),
                     .thread = static_cast<uint16_t>(thread),
                     .site = request ? site(*request) : uint16_t{0xffff},
                     .kind = kind,
                     .wait = request ? request->wait : host::Wait{}});
}

/// Return the number of the place in the source that a barrier or collective is called from.
uint16_t Recorder::site(const host::Request& request) {
  const auto known = std::find_if(sites_.begin(), sites_.end(), [&](const host::Request& other) {
    return other.line == request.line && other.wait == request.wait && std::strcmp(other.file, request.file) == 0;
  });
  const auto number = static_cast<uint16_t>(known - sites_.begin());
  if (known == sites_.end()) sites_.push_back(request);
  return number;
}

// ---- The report ----

void write(Json& json, const Region& region) {
  constexpr const char* kSpaces[] = {"global", "shared", "dynamic shared", "unknown"};
  json.open('{').field("launch", region.launch).field("space", std::string(kSpaces[static_cast<int>(region.space)]));
  json.field("name", region.name).field("position", region.position);
  json.field("shape", region.shape).field("strides", region.strides);
  json.field("dtype", region.dtype).field("itemsize", region.itemsize);
  json.field("address", region.begin).field("span_bytes", region.span);
  json.field("bytes_read", region.bytes_read).field("bytes_written", region.bytes_written).close('}');
}

void write(Json& json, const LaunchRecord& record) {
  const auto& [grid, block] = std::tie(record.launch.grid, record.launch.block);
  json.open('{').field("function", record.function);
  json.field("grid", std::vector<unsigned>(grid, grid + 3)).field("block", std::vector<unsigned>(block, block + 3));
  json.field("dynamic_shared_bytes", record.launch.dynamic_shared_bytes);
  json.field("finished", record.finished).field("instrumented", record.instrumented);
  json.field("explained", record.explained).close('}');
}

void write(Json& json, const Side& side) {
  json.open('{').field("instruction", side.instruction).field("kind", static_cast<int>(side.kind));
  json.field("block", side.block).field("thread", side.thread).close('}');
}

void write(Json& json, const Finding& finding) {
  json.open('{').field("kind", std::string(finding.kind)).field("launch", finding.launch);
  json.field("memory", finding.region ? finding.region->index : -1).field("offset", finding.offset);
  json.field("address", finding.address);
  json.field("size", finding.size).field("detail", finding.detail).field("count", finding.count);
  json.field("fatal", finding.fatal);
  write(json.key("here"), finding.here);
  if (finding.before.instruction != Side::kNone) write(json.key("before"), finding.before);
  json.close('}');
}

void write(Json& json, const std::tuple<std::size_t, uint16_t, Figure>& entry) {
  const auto& [launch, instruction, figure] = entry;
  json.open('{').field("launch", launch).field("instruction", instruction).field("memory", figure.region->index);
  json.field("accesses", figure.accesses).field("bytes", figure.bytes).field("requests", figure.requests);
  json.field("bytes_needed", figure.bytes_needed).field("sectors", figure.sectors);
  json.field("ideal_sectors", figure.ideal_sectors).field("wavefronts", figure.wavefronts);
  json.field("ideal_wavefronts", figure.ideal_wavefronts).close('}');
}

void write(Json& json, const host::Request& site) {
  json.open('{').field("function", std::string(site.function)).field("file", std::string(site.file));
  json.field("line", site.line).close('}');
}

void write(Json& json, const Instruction* instruction) {
  json.open('{').field("kind", static_cast<int>(instruction->kind)).field("size", instruction->size);
  json.field("library", instruction->library).field("address", instruction->offset).close('}');
}

template <class List>
void write_list(Json& json, const char* name, const List& entries) {
  json.key(name).open('[');
  for (const auto& entry : entries) write(json, entry);
  json.close(']');
}

/// Everything but the window's records, as JSON.
const std::string& Recorder::report() {
  Json json;
  json.open('{');
  write_list(json, "launches", launches_);
  json.key("memories").open('[');
  for (const Region* region : memories_) write(json, *region);
  json.close(']');
  write_list(json, "instructions", instructions_.listed());
  write_list(json, "figures", figures_);
  json.key("findings").open('[');
  for (const auto& [key, finding] : findings_) write(json, finding);
  json.close(']');
  write_list(json, "sites", sites_);
  json.field("notes", std::vector<std::string>(notes_.begin(), notes_.end())).close('}');
  return report_ = json.text();
}

// ---- What Python calls ----

std::unique_ptr<Recorder> the_recorder;
std::mutex recorder_mutex;

std::string text_of(const TensorView& bytes) {
  return {static_cast<const char*>(bytes.data()), static_cast<std::size_t>(bytes.num_elements())};
}

/// Start to record the launches of this OS thread. `blocks` are int64, `undefined` names that end in a newline each.
void begin(TensorView blocks, int64_t max_records, TensorView undefined) {
  const std::lock_guard lock(recorder_mutex);
  require(!the_recorder, "RuntimeError", "another observation is running in this process");
  Options options;
  const auto numbers = static_cast<const int64_t*>(blocks.data());
  options.blocks.insert(numbers, numbers + blocks.num_elements());
  options.max_records = static_cast<std::size_t>(max_records);
  const std::string names = text_of(undefined);
  for (std::size_t at = 0, end; (end = names.find('\n', at)) != names.npos; at = end + 1)
    options.undefined.insert(names.substr(at, end - at));
  the_recorder = std::make_unique<Recorder>(std::move(options));
  recorder = the_recorder.get();
  host::observer = recorder;
}

/// Stop recording. What was recorded can be fetched until `forget`.
void end() {
  host::observer = nullptr;
  recorder = nullptr;
}

void forget() {
  const std::lock_guard lock(recorder_mutex);
  end();
  the_recorder.reset();
}

/// How many bytes `fetch` will write for table 0 (the report), 1 (accesses) or 2 (events).
int64_t size(int64_t table) {
  require(the_recorder != nullptr, "RuntimeError", "there is no observation");
  if (table == 0) return static_cast<int64_t>(the_recorder->report().size());
  if (table == 1) return static_cast<int64_t>(the_recorder->accesses().size() * sizeof(AccessRecord));
  return static_cast<int64_t>(the_recorder->events().size() * sizeof(EventRecord));
}

void fetch(int64_t table, TensorView bytes) {
  const auto copy = [&](const auto& rows) {
    const std::size_t size = rows.size() * sizeof(*rows.data());
    require(bytes.num_elements() == static_cast<int64_t>(size), "ValueError", "bytes: expected ",
            static_cast<int64_t>(size), " bytes, got ", bytes.num_elements());
    std::memcpy(bytes.data(), rows.data(), size);
  };
  require(the_recorder != nullptr, "RuntimeError", "there is no observation");
  if (table == 0) copy(the_recorder->report());
  if (table == 1) copy(the_recorder->accesses());
  if (table == 2) copy(the_recorder->events());
}

}  // namespace

void observe_call(const char* function) {
  if (recorder) recorder->observe_call(function);
}
void observe_tensor(int position, const DLTensor* tensor) {
  if (recorder) recorder->observe_tensor(position, tensor);
}
void name_tensor(const void* data, const char* name) {
  if (recorder) recorder->name_tensor(data, name);
}
void observe_write(const void* data, std::size_t bytes) {
  if (recorder) recorder->observe_write(reinterpret_cast<uintptr_t>(data), bytes);
}

}  // namespace minisgl::microscope

MINISGL_EXPORT(microscope_begin, minisgl::microscope::begin);
MINISGL_EXPORT(microscope_end, minisgl::microscope::end);
MINISGL_EXPORT(microscope_forget, minisgl::microscope::forget);
MINISGL_EXPORT(microscope_size, minisgl::microscope::size);
MINISGL_EXPORT(microscope_fetch, minisgl::microscope::fetch);

// ---- What the compiler calls: the interfaces of ThreadSanitizer and UndefinedBehaviorSanitizer ----

#include <microscope/instrumentation.h>
