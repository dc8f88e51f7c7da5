// Functions that check their arguments and do nothing else, for test_tensor_matcher.py.
#include <minisgl/tensor.h>
#include <minisgl/utils.cuh>

namespace minisgl::test {

inline const DLDataType kFloat16{kDLFloat, 16, 1}, kFloat32{kDLFloat, 32, 1};

/// a [L, D] and b [D, L], float16 or float32, both contiguous.
inline int64_t agree(TensorView a, TensorView b) {
  auto L = SymbolicSize("L"), D = SymbolicSize("D");
  auto dtype = SymbolicDType({kFloat16, kFloat32});
  auto device = SymbolicDevice({kDeviceType});
  TensorMatcher({L, D}).with_dtype(dtype).with_device(device).verify("a", a);
  TensorMatcher({D, L}).with_dtype(dtype).with_device(device).verify("b", b);
  return L.value();
}

/// [any, 4, N, N] of any dtype, strided as it likes in the first two dimensions.
inline int64_t square(TensorView x) {
  auto N = SymbolicSize("N");
  TensorMatcher({kAny, 4, N, N}).with_strides({kAny, kAny, N, 1}).verify("x", x);
  return N.value();
}

/// Two tensors of any size: "any" binds nothing, so they need not agree.
inline int64_t anything(TensorView a, TensorView b) {
  TensorMatcher({kAny}).with_strides({kAny}).verify("a", a);
  TensorMatcher({kAny}).with_strides({kAny}).verify("b", b);
  return a.size(0) + b.size(0);
}

/// A matcher that outlives the braces it was made from.
inline int64_t kept(TensorView x) {
  auto L = SymbolicSize("L");
  const auto make = [&] { return TensorMatcher({L, 3}).with_strides({5, 1}); };
  const TensorMatcher matcher = make();
  matcher.verify("x", x);
  return L.value();
}

inline int64_t unbound() { return SymbolicSize("L").value(); }

inline double scale(double x, bool negate, std::optional<int64_t> times) {
  return (negate ? -x : x) * static_cast<double>(times.value_or(1));
}

}  // namespace minisgl::test
