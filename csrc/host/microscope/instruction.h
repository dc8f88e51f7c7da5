// Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:77d53367b44f

#pragma once

// The machine instructions that touch memory, by the address they are called from.

#include <dlfcn.h>
#include <microscope/requests.h>

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace minisgl::microscope {

enum class Kind : uint8_t { kLoad, kStore, kAtomic, kCheck };

/// One place in the machine code, and what it did in the launch.
struct Instruction {
  static constexpr uint16_t kUnlisted = 0xffff;
  uint16_t id;  ///< among those that touched memory of the launch, or were checked
  Kind kind;
  uint32_t size;
  std::string library;
  uint64_t offset;  ///< in the library's file
  Region* region;   ///< what it touched last: most instructions keep to one
  Requests requests;
  bool active = false;  ///< in this block

  /// How often in a row one thread has come back to one address, of those times that a block's figures leave out.
  struct {
    uintptr_t address;
    unsigned thread;
    uint32_t times;
  } patience{};
};

class Instructions {
 public:
  /// Return the instruction whose instrumentation returns to `pc`.
  __attribute__((always_inline)) Instruction& find(const void* pc, Kind kind, uint32_t size) {
    Slot& slot = slots_[reinterpret_cast<uintptr_t>(pc) / 4 % kSlots];
    if (slot.pc != pc) [[unlikely]]
      slot = {pc, &add(pc, kind, size)};
    return *slot.instruction;
  }

  const std::vector<std::unique_ptr<Instruction>>& all() const { return all_; }
  const std::vector<Instruction*>& listed() const { return listed_; }

  /// Give an instruction its number. There is room for 32767; what comes later shares the last one.
  void list(Instruction& instruction) {
    if (listed_.size() < 0x7fff) listed_.push_back(&instruction);
    instruction.id = static_cast<uint16_t>(listed_.size() - 1);
  }

  /// A region that holds nothing.
  Region* nowhere() { return &nowhere_; }

 private:
  struct Slot {
    const void* pc;
    Instruction* instruction;
  };

  Instruction& add(const void* pc, Kind kind, uint32_t size) {
    const auto [known, is_new] = by_pc_.try_emplace(pc, nullptr);
    if (is_new) {
      Dl_info info{};
      dladdr(pc, &info);
      const auto offset = reinterpret_cast<uintptr_t>(pc) - reinterpret_cast<uintptr_t>(info.dli_fbase) - 1;
      all_.push_back(std::make_unique<Instruction>(Instruction{
          Instruction::kUnlisted, kind, size, info.dli_fname ? info.dli_fname : "", offset, &nowhere_, {}}));
      known->second = all_.back().get();
    }
    return *known->second;
  }

  static constexpr std::size_t kSlots = 1 << 13;
  Slot slots_[kSlots] = {};
  std::unordered_map<const void*, Instruction*> by_pc_;
  std::vector<std::unique_ptr<Instruction>> all_;
  std::vector<Instruction*> listed_;
  Region nowhere_;
};

}  // namespace minisgl::microscope
