// Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:75f5813d6478

#pragma once

// The memory that a kernel may touch: its tensor arguments, as far as their views reach, and its shared memory.

#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <minisgl/tensor.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace minisgl::microscope {

struct Page;

struct Range {
  uintptr_t begin, end;
  bool holds(uintptr_t address) const { return begin <= address && address < end; }
};

/// One stretch of memory with a name.
struct Region {
  enum class Space : uint8_t { kGlobal, kShared, kDynamicShared, kIgnored };

  /// A dimension whose entries lie apart: `stride` bytes from one to the next.
  struct Gap {
    uint64_t stride, entry_bytes;
  };

  Space space = Space::kIgnored;
  bool undefined = false;  ///< nobody has written to it when the observation begins
  bool named = false;      ///< `name` is the one that the source gives it
  static constexpr uint16_t kUnlisted = 0xffff;
  uint16_t index = kUnlisted;  ///< among the results
  uint16_t launch = 0;
  uintptr_t begin = 1;
  uint64_t span = 0;      ///< bytes from the first to behind the last; 0: holds nothing
  std::vector<Gap> gaps;  ///< outermost first
  std::string name;
  int position = -1;
  std::vector<int64_t> shape, strides;
  std::string dtype;
  int64_t itemsize = 1;
  uint64_t bytes_read = 0, bytes_written = 0;  ///< distinct ones, of one launch
  std::vector<Page*> pages;                    ///< the shadow of each 4 KiB, as far as it was needed

  uintptr_t end() const { return begin + span; }

  /// Whether an access of `size` bytes lies inside, in no gap.
  __attribute__((always_inline)) bool contains(uintptr_t address, uint64_t size) const {
    uint64_t offset = address - begin;  // an address below becomes a huge offset
    if (offset >= span || size > span - offset) return false;
    for (const auto& gap : gaps) {
      offset %= gap.stride;
      if (offset + size > gap.entry_bytes) return false;
    }
    return true;
  }
};

/// Describe a tensor argument. Dimensions that follow each other without a gap count as one; views whose entries
/// overlap are taken by their span.
inline Region tensor_region(int position, const DLTensor* tensor) {
  const TensorView view(tensor);
  Region region;
  region.space = Region::Space::kGlobal;
  region.name = "argument " + std::to_string(position);
  region.position = position;
  region.dtype = to_string(view.dtype());
  region.itemsize = dtype_bytes(view.dtype());
  region.begin = reinterpret_cast<uintptr_t>(view.data());
  for (int i = 0; i < view.dim(); ++i) {
    region.shape.push_back(view.size(i));
    region.strides.push_back(view.stride(i));
  }
  if (view.num_elements() == 0) return region;

  std::vector<std::pair<uint64_t, uint64_t>> dims;  // stride in bytes and size, innermost first
  for (int i = 0; i < view.dim(); ++i)
    if (view.size(i) > 1 && view.stride(i) > 0) dims.push_back({view.stride_bytes(i), view.size(i)});
  std::sort(dims.begin(), dims.end());
  uint64_t bytes = region.itemsize;
  bool overlap = false;
  for (const auto& [stride, size] : dims) {
    if (stride > bytes) region.gaps.insert(region.gaps.begin(), {stride, bytes});
    overlap |= stride < bytes;
    bytes += stride * (size - 1);
  }
  region.span = bytes;
  if (overlap) region.gaps.clear();
  return region;
}

/// The library that holds a kernel: its own data, and its `__shared__` arrays, which are static variables here.
class Library {
 public:
  explicit Library(const void* code) : code_(reinterpret_cast<uintptr_t>(code)) {
    const auto visit = [](dl_phdr_info* info, std::size_t, void* self) {
      return static_cast<Library*>(self)->take(*info) ? 1 : 0;
    };
    dl_iterate_phdr(visit, this);
    std::ifstream file(path_, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    if (bytes.size() >= sizeof(Elf64_Ehdr)) read_symbols(bytes.data());
  }

  bool holds(const void* code) const {
    const auto address = reinterpret_cast<uintptr_t>(code);
    return std::any_of(segments_.begin(), segments_.end(), [&](const Range& range) { return range.holds(address); });
  }

  /// Whether it calls the recorder at all.
  bool instrumented() const { return instrumented_; }

  /// Its constants and its variables, which a kernel may touch without a word in the record: threadIdx is one.
  const std::vector<Range>& own_data() const { return own_data_; }

  /// The loop over threads that one kernel is inlined into: its name holds the kernel's.
  struct Loop {
    Range code;
    std::string name;

    /// `function` is written as "f<3>(int*)", or "f" if it is no template.
    bool is_of(const std::string& function) const {
      for (auto at = name.find(function); at != name.npos; at = name.find(function, at + 1))
        if (at > 0 && std::strchr("(& ", name[at - 1]) && std::strchr(",>)", name[at + function.size()])) return true;
      return false;
    }
  };

  /// Return the loop that the machine code at `pc` belongs to, or null.
  const Loop* loop_at(const void* pc) const {
    const auto runs = [pc](const Loop& loop) { return loop.code.holds(reinterpret_cast<uintptr_t>(pc)); };
    const auto found = std::find_if(loops_.begin(), loops_.end(), runs);
    return found == loops_.end() ? nullptr : &*found;
  }

  /// The shared arrays that a kernel may use: all but those that other kernels declare. A null `loop` is any kernel's.
  std::vector<Region> shared_arrays(const Loop* loop) const {
    std::vector<Region> arrays;
    for (const auto& [array, function] : shared_arrays_) {
      const auto declares = [&function](const Loop& other) { return other.is_of(function); };
      if (!loop || declares(*loop) || std::none_of(loops_.begin(), loops_.end(), declares)) arrays.push_back(array);
    }
    return arrays;
  }

 private:
  bool take(const dl_phdr_info& info) {
    std::vector<Range> segments, constant;
    for (int i = 0; i < info.dlpi_phnum; ++i) {
      const auto& header = info.dlpi_phdr[i];
      if (header.p_type != PT_LOAD) continue;
      segments.push_back({info.dlpi_addr + header.p_vaddr, info.dlpi_addr + header.p_vaddr + header.p_memsz});
      if (!(header.p_flags & PF_W)) constant.push_back(segments.back());
    }
    const auto holds_code = [this](const Range& range) { return range.holds(code_); };
    if (std::none_of(segments.begin(), segments.end(), holds_code)) return false;
    base_ = info.dlpi_addr;
    path_ = info.dlpi_name;
    segments_ = std::move(segments);
    own_data_ = std::move(constant);
    return true;
  }

  /// Find the variables in the symbol table of the file: the loader keeps only the names that others may use.
  void read_symbols(const char* file) {
    const auto header = reinterpret_cast<const Elf64_Ehdr*>(file);
    const auto sections = reinterpret_cast<const Elf64_Shdr*>(file + header->e_shoff);
    const char* section_names = file + sections[header->e_shstrndx].sh_offset;
    for (int i = 0; i < header->e_shnum; ++i) {
      if (sections[i].sh_type != SHT_SYMTAB) continue;
      const auto first = reinterpret_cast<const Elf64_Sym*>(file + sections[i].sh_offset);
      const auto last = first + sections[i].sh_size / sizeof(Elf64_Sym);
      const char* names = file + sections[sections[i].sh_link].sh_offset;
      std::set<std::string> scopes;  // how names of static variables begin in functions that have shared ones
      for (auto symbol = first; symbol != last; ++symbol) {
        const std::string name = names + symbol->st_name;
        instrumented_ |= name.starts_with("__tsan_");
        if (const auto guard = name.find(kGuard); name.starts_with("_ZZ") && guard != name.npos)
          scopes.insert(name.substr(0, name.find_last_not_of("0123456789", guard - 1) + 1));
      }
      for (auto symbol = first; symbol != last; ++symbol) {
        const std::string name = names + symbol->st_name;
        const uintptr_t begin = base_ + symbol->st_value;
        if (ELF64_ST_TYPE(symbol->st_info) == STT_FUNC && name.find(kLoop) != name.npos)
          loops_.push_back({{begin, begin + symbol->st_size}, plain_name(name)});
        if (ELF64_ST_TYPE(symbol->st_info) != STT_OBJECT || symbol->st_shndx >= header->e_shnum) continue;
        if (name.find(kGuard) != name.npos) continue;
        const Elf64_Shdr& section = sections[symbol->st_shndx];
        const std::string section_name = section_names + section.sh_name;
        const bool constant = !(section.sh_flags & SHF_WRITE) || section_name.starts_with(".data.rel.ro");
        const auto holds = [&](const std::string& scope) { return name.starts_with(scope); };
        // GCC before 13 puts no variable of a template into the section that it should be in.
        const bool shared = section_name.starts_with("minisgl_shared_") ||
                            (!constant && std::any_of(scopes.begin(), scopes.end(), holds));
        add_variable(name, {begin, begin + symbol->st_size}, shared);
      }
    }
  }

  /// The name is one such as "void minisgl::transpose<float>(float*)::tile" or "tile.12".
  void add_variable(const std::string& mangled, const Range& range, bool shared) {
    if (!shared) return own_data_.push_back(range);
    const std::string name = plain_name(mangled);
    const auto colons = name.rfind("::");
    std::string function = colons == name.npos ? "" : name.substr(0, colons);
    if (function.find('<') == function.npos) function = function.substr(0, function.rfind('('));
    const std::string last = colons == name.npos ? name : name.substr(colons + 2);
    Region array;
    array.space = Region::Space::kShared;
    array.name = last.substr(0, last.find_first_of(".["));
    array.begin = range.begin;
    array.span = range.end - range.begin;
    array.shape = {static_cast<int64_t>(array.span)};
    array.strides = {1};
    shared_arrays_.push_back({std::move(array), function.empty() ? "?" : function});
  }

  static std::string plain_name(const std::string& mangled) {
    const std::unique_ptr<char, void (*)(void*)> plain(abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, nullptr),
                                                       std::free);
    return plain ? plain.get() : mangled;
  }

  static constexpr const char* kGuard = "minisgl_guard_";
  static constexpr const char* kLoop = "11run_threads";
  uintptr_t code_, base_ = 0;
  bool instrumented_ = false;
  std::string path_;
  std::vector<Range> segments_, own_data_;
  std::vector<std::pair<Region, std::string>> shared_arrays_;  ///< each with the function that declares it
  std::vector<Loop> loops_;
};

}  // namespace minisgl::microscope
