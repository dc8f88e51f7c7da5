// Exported from notebooks/02_describing_tensors.md by "minisgl book export"; edit it there. sha256:49a21add88bf

#pragma once

#include <dlpack/dlpack.h>
#include <minisgl/observe.h>
#include <minisgl/utils.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>

namespace minisgl {

/// A tensor that somebody else owns: DLPack's description of it, with names for its parts.
class TensorView {
 public:
  explicit TensorView(const DLTensor* tensor) : tensor_(tensor) {}

  const DLTensor* dl() const { return tensor_; }

  void* data() const { return static_cast<std::byte*>(tensor_->data) + tensor_->byte_offset; }
  bool has_memory() const { return tensor_->data != nullptr; }
  int dim() const { return tensor_->ndim; }
  int64_t size(int i) const { return tensor_->shape[i]; }
  DLDataType dtype() const { return tensor_->dtype; }
  DLDevice device() const { return tensor_->device; }

  /// Elements from one entry of dimension `i` to the next.
  int64_t stride(int i) const {
    if (tensor_->strides != nullptr) return tensor_->strides[i];
    int64_t stride = 1;
    for (int j = i + 1; j < dim(); ++j) stride *= size(j);
    return stride;
  }

  /// Bytes from one entry of dimension `i` to the next; 0 if there is no next one.
  int64_t stride_bytes(int i) const { return size(i) > 1 ? stride(i) * dtype_bytes(dtype()) : 0; }

  int64_t num_elements() const {
    int64_t count = 1;
    for (int i = 0; i < dim(); ++i) count *= size(i);
    return count;
  }

 private:
  const DLTensor* tensor_;
};

/// A short list that lives on the stack: a matcher is built on every call of a kernel.
template <class T>
class ShortList {
 public:
  static constexpr std::size_t kCapacity = 8;
  ShortList(std::initializer_list<T> items) {
    for (const auto& item : items) push_back(item);
  }
  void push_back(const T& item) {
    require(size_ < kCapacity, "RuntimeError", "a list of more than ", int64_t{kCapacity}, " entries");
    items_[size_++] = item;
  }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  const T& operator[](std::size_t i) const { return items_[i]; }
  const T* begin() const { return items_; }
  const T* end() const { return items_ + size_; }

 private:
  T items_[kCapacity]{};
  std::size_t size_ = 0;
};

/// What is known about one size, dtype or device: a name, and a value as soon as one tensor has shown it.
template <class T>
class Symbol {
 public:
  Symbol(const char* name, std::initializer_list<T> options) : name_(name), options_(options) {}

  bool bound() const { return value_.has_value(); }

  T value() const {
    require(bound(), "RuntimeError", name_, " is read before a tensor has bound it");
    return *value_;
  }

  /// Take `value` if it is the one known already, or the first and among the options. Nothing changes on refusal.
  bool accept(T value) {
    if (bound()) return same(*value_, value);
    bool allowed = options_.empty();
    for (const auto& option : options_) allowed |= same(option, value);
    if (allowed) value_ = value;
    return allowed;
  }

 protected:
  static bool same(int64_t a, int64_t b) { return a == b; }
  static bool same(DLDataType a, DLDataType b) { return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes; }
  static bool same(DLDevice a, DLDevice b) {
    // Device id -1 in an option stands for every device of that type.
    return a.device_type == b.device_type && (a.device_id == b.device_id || a.device_id == -1);
  }

  std::string options_text() const {
    std::string text;
    for (const auto& option : options_) {
      if (!text.empty()) text += "|";
      text += option_text(option);
    }
    return text;
  }

  static std::string option_text(int64_t size) { return std::to_string(size); }
  static std::string option_text(DLDataType dtype) { return to_string(dtype); }
  static std::string option_text(DLDevice device) {
    return device.device_id == -1 ? to_string(device.device_type) : to_string(device);
  }

  const char* name_;
  ShortList<T> options_;
  std::optional<T> value_;
};

/// A size with a name: the first tensor that has it fixes the value, every later one must agree.
class SymbolicSize : public Symbol<int64_t> {
 public:
  explicit SymbolicSize(const char* name) : Symbol(name, {}) {}
  std::string to_string() const { return bound() ? std::string(name_) + "=" + std::to_string(*value_) : name_; }
};

/// A dtype that several tensors share, optionally one of a few.
class SymbolicDType : public Symbol<DLDataType> {
 public:
  SymbolicDType(std::initializer_list<DLDataType> options = {}) : Symbol("dtype", options) {}
  std::string to_string() const { return bound() ? minisgl::to_string(*value_) : options_text(); }
};

/// A device that several tensors share, optionally of one of a few types.
class SymbolicDevice : public Symbol<DLDevice> {
 public:
  SymbolicDevice(std::initializer_list<DLDeviceType> types = {}) : Symbol("device", {}) {
    for (auto type : types) options_.push_back({type, -1});
  }
  std::string to_string() const { return bound() ? minisgl::to_string(*value_) : options_text(); }
};

/// One entry of a shape or of strides: a number, a symbol, or kAny, which accepts everything and binds nothing.
class Extent {
 public:
  struct Any {};
  Extent(Any = {}) {}
  Extent(int64_t value) : value_(value) {}
  Extent(int value) : value_(value) {}
  Extent(SymbolicSize& symbol) : symbol_(&symbol) {}

  bool accept(int64_t size) const { return symbol_ ? symbol_->accept(size) : !value_ || *value_ == size; }
  std::string to_string() const { return symbol_ ? symbol_->to_string() : value_ ? std::to_string(*value_) : "any"; }

 private:
  SymbolicSize* symbol_ = nullptr;
  std::optional<int64_t> value_;
};

inline constexpr Extent::Any kAny{};

/// Declares what a tensor must look like, then checks one:
///
///     auto L = SymbolicSize("L"), D = SymbolicSize("D");
///     TensorMatcher({L, D}).with_dtype(dtype).with_device(device).verify("k", k);
///
/// The matcher copies what it is given; only the symbols live outside, because tensors share them.
class TensorMatcher {
 public:
  TensorMatcher(std::initializer_list<Extent> shape) : shape_(shape) {}

  /// Strides in elements. Without this call the tensor must be contiguous. A dimension of size 1 has no stride.
  TensorMatcher& with_strides(std::initializer_list<Extent> strides) {
    require(strides.size() == shape_.size(), "RuntimeError", "as many strides as sizes are needed");
    strides_ = strides;
    return *this;
  }

  TensorMatcher& with_dtype(SymbolicDType& dtype) {
    dtype_ = &dtype;
    return *this;
  }

  TensorMatcher& with_device(SymbolicDevice& device) {
    device_ = &device;
    return *this;
  }

  /// Check `tensor` and bind the symbols. Throws TypeError for the dtype, ValueError for all else; the message names
  /// `argument`, what was expected, and what came.
  void verify(const char* argument, const TensorView& tensor) const {
    MINISGL_OBSERVE(name_tensor(tensor.data(), argument));
    if (dtype_ && !dtype_->accept(tensor.dtype())) refuse("TypeError", argument, tensor);
    if (device_ && !device_->accept(tensor.device())) refuse("ValueError", argument, tensor);
    if (tensor.dim() != static_cast<int>(shape_.size())) refuse("ValueError", argument, tensor);
    for (int i = 0; i < tensor.dim(); ++i) {
      if (!shape_[i].accept(tensor.size(i))) refuse("ValueError", argument, tensor);
    }
    require(tensor.has_memory() || tensor.num_elements() == 0, "ValueError", argument,
            ": expected a tensor with memory, got one without (freed, fake or a wrapper)");
    if (!strides_match(tensor)) refuse("ValueError", argument, tensor, /*show_strides=*/true);
  }

 private:
  bool strides_match(const TensorView& tensor) const {
    if (tensor.num_elements() == 0) return true;
    int64_t contiguous = 1;
    for (int i = tensor.dim() - 1; i >= 0; --i) {
      const auto expected = strides_.empty() ? Extent(contiguous) : strides_[i];
      if (tensor.size(i) != 1 && !expected.accept(tensor.stride(i))) return false;
      contiguous *= tensor.size(i);
    }
    return true;
  }

  [[noreturn]] void refuse(const char* kind, const char* argument, const TensorView& tensor,
                           bool show_strides = false) const {
    auto expected = list(shape_.size(), [&](int i) { return shape_[i].to_string(); });
    auto got = list(tensor.dim(), [&](int i) { return std::to_string(tensor.size(i)); });
    if (const auto dtype = dtype_ ? dtype_->to_string() : ""; !dtype.empty()) expected += " " + dtype;
    got += " " + to_string(tensor.dtype());
    if (const auto device = device_ ? device_->to_string() : ""; !device.empty()) expected += " on " + device;
    got += " on " + to_string(tensor.device());
    if (show_strides) {
      expected += strides_.empty()
                      ? " contiguous"
                      : " with strides " + list(strides_.size(), [&](int i) { return strides_[i].to_string(); });
      got += " with strides " + list(tensor.dim(), [&](int i) { return std::to_string(tensor.stride(i)); });
    }
    fail(kind, argument, ": expected ", expected, ", got ", got);
  }

  template <class Entry>
  static std::string list(std::size_t size, const Entry& entry) {
    std::string text = "[";
    for (std::size_t i = 0; i < size; ++i) text += (i ? ", " : "") + entry(static_cast<int>(i));
    return text + "]";
  }

  ShortList<Extent> shape_;
  ShortList<Extent> strides_{};
  SymbolicDType* dtype_ = nullptr;
  SymbolicDevice* device_ = nullptr;
};

}  // namespace minisgl
