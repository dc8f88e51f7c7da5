// Exported from notebooks/08_nccl.md by "minisgl book export"; edit it there. sha256:a8ecd4f8b725

#pragma once

#include <minisgl/ffi.h>
#include <tvm/ffi/tvm_ffi.h>

#include <concepts>
#include <utility>

/// What `ffi.h` adds for libraries that hand objects to Python. TVM-FFI's C++ headers take seconds to compile, which
/// only code that is compiled ahead of time should wait for.
namespace minisgl::ffi {

/// A value that TVM-FFI's C++ interface made, on its way back to Python.
struct Returned {
  tvm::ffi::Any value;
};

inline void set_result(TVMFFIAny* result, Returned returned) {
  *result = tvm::ffi::details::AnyUnsafe::MoveAnyToTVMFFIAny(std::move(returned.value));
}

template <class T>
  requires std::derived_from<T, tvm::ffi::Object>
struct Argument<T*> {
  static constexpr const char* kName = T::_type_key;
  static bool matches(const TVMFFIAny& any) { return any.type_index == T::RuntimeTypeIndex(); }
  static T* get(const TVMFFIAny& any) { return tvm::ffi::details::ObjectUnsafe::RawObjectPtrFromUnowned<T>(any.v_obj); }
};

/// Types of TVM-FFI's own.
template <class T>
struct ValueArgument {
  static bool matches(const TVMFFIAny& any) {
    return tvm::ffi::AnyView::CopyFromTVMFFIAny(any).try_cast<T>().has_value();
  }
  static T get(const TVMFFIAny& any) { return tvm::ffi::AnyView::CopyFromTVMFFIAny(any).cast<T>(); }
};

template <>
struct Argument<tvm::ffi::String> : ValueArgument<tvm::ffi::String> {
  static constexpr const char* kName = "a str";
};

template <>
struct Argument<tvm::ffi::Bytes> : ValueArgument<tvm::ffi::Bytes> {
  static constexpr const char* kName = "bytes";
};

}  // namespace minisgl::ffi
