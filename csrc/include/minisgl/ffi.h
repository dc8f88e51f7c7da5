// Exported from notebooks/01_python_to_cpp_and_back.md by "minisgl book export"; edit it there. sha256:a263c5d40ab7

#pragma once

#include <minisgl/observe.h>
#include <minisgl/tensor.h>
#include <minisgl/utils.h>
#include <tvm/ffi/c_api.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

/// The glue between Python and a C++ function. It speaks TVM-FFI's C interface, whose header compiles in no time;
/// the C++ one would add seconds to every kernel.
namespace minisgl::ffi {

inline const char* type_name(const TVMFFIAny& any) {
  switch (any.type_index) {
    case kTVMFFINone: return "None";
    case kTVMFFIInt: return "an int";
    case kTVMFFIBool: return "a bool";
    case kTVMFFIFloat: return "a float";
    case kTVMFFIRawStr:
    case kTVMFFISmallStr:
    case kTVMFFIStr: return "a str";
    case kTVMFFIDLTensorPtr:
    case kTVMFFITensor: return "a tensor";
    default: return "something else";
  }
}

/// How one argument of a call becomes a C++ value; `matches` says whether it can.
template <class T>
struct Argument;

template <>
struct Argument<TensorView> {
  static constexpr const char* kName = "a tensor";
  static bool matches(const TVMFFIAny& any) {
    return any.type_index == kTVMFFITensor || any.type_index == kTVMFFIDLTensorPtr;
  }
  static TensorView get(const TVMFFIAny& any) {
    if (any.type_index == kTVMFFIDLTensorPtr) return TensorView(static_cast<const DLTensor*>(any.v_ptr));
    return TensorView(TVMFFITensorGetDLTensorPtr(any.v_obj));
  }
};

template <>
struct Argument<int64_t> {
  static constexpr const char* kName = "an int";
  static bool matches(const TVMFFIAny& any) { return any.type_index == kTVMFFIInt; }
  static int64_t get(const TVMFFIAny& any) { return any.v_int64; }
};

template <>
struct Argument<bool> {
  static constexpr const char* kName = "a bool";
  static bool matches(const TVMFFIAny& any) { return any.type_index == kTVMFFIBool; }
  static bool get(const TVMFFIAny& any) { return any.v_int64 != 0; }
};

template <>
struct Argument<double> {
  static constexpr const char* kName = "a float";
  static bool matches(const TVMFFIAny& any) { return any.type_index == kTVMFFIFloat || any.type_index == kTVMFFIInt; }
  static double get(const TVMFFIAny& any) {
    return any.type_index == kTVMFFIInt ? static_cast<double>(any.v_int64) : any.v_float64;
  }
};

template <class T>
struct Argument<std::optional<T>> {
  static inline const std::string kName = std::string(Argument<T>::kName) + " or None";
  static bool matches(const TVMFFIAny& any) { return any.type_index == kTVMFFINone || Argument<T>::matches(any); }
  static std::optional<T> get(const TVMFFIAny& any) {
    return any.type_index == kTVMFFINone ? std::nullopt : std::optional<T>(Argument<T>::get(any));
  }
};

inline void set_result(TVMFFIAny* result, bool value) {
  result->type_index = kTVMFFIBool;
  result->v_int64 = value;
}

template <std::integral T>
void set_result(TVMFFIAny* result, T value) {
  result->type_index = kTVMFFIInt;
  result->v_int64 = static_cast<int64_t>(value);
}

inline void set_result(TVMFFIAny* result, double value) {
  result->type_index = kTVMFFIFloat;
  result->v_float64 = value;
}

#ifdef MINISGL_MICROSCOPE
inline void observe_argument(int position, const TVMFFIAny& any) {
  if (Argument<TensorView>::matches(any)) microscope::observe_tensor(position, Argument<TensorView>::get(any).dl());
}
#endif

template <class... Args, class R, std::size_t... kIndex>
void invoke(R (*function)(Args...), const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result,
            std::index_sequence<kIndex...>) {
  constexpr int64_t kNumArgs = sizeof...(Args);
  require(num_args == kNumArgs, "TypeError", "expected ", kNumArgs, " arguments, got ", int64_t{num_args});
  (require(Argument<Args>::matches(args[kIndex]), "TypeError", "argument ", int64_t{kIndex}, ": expected ",
           Argument<Args>::kName, ", got ", type_name(args[kIndex])),
   ...);
#ifdef MINISGL_MICROSCOPE
  (observe_argument(static_cast<int>(kIndex), args[kIndex]), ...);
#endif
  if constexpr (std::is_void_v<R>) {
    function(Argument<Args>::get(args[kIndex])...);
  } else {
    set_result(result, function(Argument<Args>::get(args[kIndex])...));
  }
}

/// Call `function` with the arguments of a TVM-FFI call; an exception becomes a Python one with `name` in front.
template <class... Args, class R>
int call(const char* name, R (*function)(Args...), const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result) {
  MINISGL_OBSERVE(observe_call(name));
  const auto raise = [name](const char* kind, const char* what) {
    const char* parts[] = {name, ": ", what};
    TVMFFIErrorSetRaisedFromCStrParts(kind, parts, 3);
    return -1;
  };
  try {
    invoke(function, args, num_args, result, std::index_sequence_for<Args...>{});
    return 0;
  } catch (const Error& error) {
    return raise(error.kind(), error.what());
  } catch (const std::exception& error) {
    return raise("RuntimeError", error.what());
  } catch (...) {
    return raise("RuntimeError", "an exception that is no std::exception");
  }
}

}  // namespace minisgl::ffi

/// Export a C++ function under a name that Python calls it by. The function comes last: its template arguments may
/// hold commas.
#define MINISGL_EXPORT(name, ...)                                                                               \
  extern "C" __attribute__((visibility("default"))) int __tvm_ffi_##name(void*, const TVMFFIAny* args,          \
                                                                         int32_t num_args, TVMFFIAny* result) { \
    return ::minisgl::ffi::call(#name, &__VA_ARGS__, args, num_args, result);                                   \
  }
