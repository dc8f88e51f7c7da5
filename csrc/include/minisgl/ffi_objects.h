// Exported from notebooks/07_radix.md by "minisgl book export"; edit it there. sha256:5efff972b980

#pragma once

#include <minisgl/ffi.h>
#include <tvm/ffi/tvm_ffi.h>

#include <concepts>
#include <cstdint>
#include <utility>

/// What `ffi.h` adds for libraries that hand objects to Python. TVM-FFI's C++ headers take seconds to compile, which
/// only code that is compiled ahead of time should wait for.
namespace minisgl::ffi {

/// Its address is this library's own.
static constexpr char kThisLibrary = 0;

/// An object whose layout only the library that made it knows. After an edit, a process may hold two of them.
class LibraryObject : public tvm::ffi::Object {
 public:
  const char* const library = &kThisLibrary;
};

/// A value that TVM-FFI's C++ interface made, on its way back to Python.
struct Returned {
  tvm::ffi::Any value;
};

inline void set_result(TVMFFIAny* result, Returned returned) {
  *result = tvm::ffi::details::AnyUnsafe::MoveAnyToTVMFFIAny(std::move(returned.value));
}

template <class T>
  requires std::derived_from<T, LibraryObject>
struct Argument<T*> {
  static constexpr const char* kName = T::_type_key;
  static bool matches(const TVMFFIAny& any) { return any.v_obj != nullptr && any.type_index == T::RuntimeTypeIndex(); }
  static T* get(const TVMFFIAny& any) {
    auto* object = tvm::ffi::details::ObjectUnsafe::RawObjectPtrFromUnowned<T>(any.v_obj);
    require(object->library == &kThisLibrary, "RuntimeError", T::_type_key, ": was made before its library was edited");
    return object;
  }
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

/// Whether `T` has been described to TVM-FFI: a second build of a library in one process finds its types there.
template <class T>
bool is_registered() {
  return TVMFFIGetTypeInfo(T::_GetOrAllocRuntimeTypeIndex())->metadata != nullptr;
}

}  // namespace minisgl::ffi
