// Exported from notebooks/01_python_to_cpp_and_back.md by "minisgl book export"; edit it there. sha256:9da20d9608e8

#pragma once

#include <dlpack/dlpack.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <utility>

namespace minisgl {

/// An error that arrives in Python as the exception named `kind`: "RuntimeError", "ValueError", "TypeError",
/// "IndexError", "KeyError", "AttributeError", "AssertionError" or "MemoryError". Any other name arrives as RuntimeError.
class Error : public std::exception {
 public:
  Error(const char* kind, std::string message) : kind_(kind), message_(std::move(message)) {}
  const char* kind() const noexcept { return kind_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  const char* kind_;
  std::string message_;
};

inline std::string to_string(const char* text) { return text; }
inline std::string to_string(std::string text) { return text; }
inline std::string to_string(int64_t value) { return std::to_string(value); }

/// The quotient of two non-negative integers, rounded up.
template <class T>
constexpr T div_ceil(T a, T b) {
  return a / b + (a % b != 0);
}

/// Bytes of one element. Types of less than a byte (float4 in pairs) count the bytes of their storage unit.
constexpr int64_t dtype_bytes(DLDataType dtype) { return div_ceil<int64_t>(dtype.bits * dtype.lanes, 8); }

inline std::string to_string(DLDataType dtype) {
  const auto bits = std::to_string(dtype.bits);
  const auto name = [&]() -> std::string {
    switch (dtype.code) {
      case kDLInt: return "int" + bits;
      case kDLUInt: return "uint" + bits;
      case kDLFloat: return "float" + bits;
      case kDLBfloat: return "bfloat" + bits;
      case kDLComplex: return "complex" + bits;
      case kDLBool: return "bool";
      case kDLFloat8_e4m3fn: return "float8_e4m3fn";
      case kDLFloat8_e4m3fnuz: return "float8_e4m3fnuz";
      case kDLFloat8_e5m2: return "float8_e5m2";
      case kDLFloat8_e5m2fnuz: return "float8_e5m2fnuz";
      case kDLFloat8_e8m0fnu: return "float8_e8m0fnu";
      case kDLFloat4_e2m1fn: return "float4_e2m1fn";
      default: return "dtype(code=" + std::to_string(dtype.code) + ", bits=" + bits + ")";
    }
  }();
  return dtype.lanes == 1 ? name : name + "_x" + std::to_string(dtype.lanes);
}

inline std::string to_string(DLDeviceType type) {
  return type == kDLCPU ? "cpu" : type == kDLCUDA ? "cuda" : "device type " + std::to_string(static_cast<int>(type));
}

inline std::string to_string(DLDevice device) {
  return device.device_type == kDLCPU ? "cpu" : to_string(device.device_type) + ":" + std::to_string(device.device_id);
}

/// Throw an Error of `kind` whose message is the concatenation of `parts`.
template <class... Parts>
[[noreturn]] void fail(const char* kind, const Parts&... parts) {
  throw Error(kind, (to_string(parts) + ...));
}

/// Throw unless `condition` holds. The message is put together only when it is needed.
template <class... Parts>
void require(bool condition, const char* kind, const Parts&... parts) {
  if (!condition) [[unlikely]]
    fail(kind, parts...);
}

namespace pointer {

/// `base` moved by a number of bytes. These are constexpr so that nvcc lets kernels call them.
constexpr void* offset(void* base, int64_t bytes) { return static_cast<std::byte*>(base) + bytes; }
constexpr const void* offset(const void* base, int64_t bytes) { return static_cast<const std::byte*>(base) + bytes; }

}  // namespace pointer

}  // namespace minisgl
