// Every thread of a grid changes one of a few values, for test_atomics.py.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <minisgl/tensor.h>
#include <minisgl/utils.cuh>

#include <cstdint>

namespace minisgl::test {

/// Thread i applies Op to values[slots[i]] with operands[i], and keeps what Op returns: the value of before.
template <class Op, class T>
__global__ void update_kernel(int64_t size, T* values, const int* slots, const T* operands, T* before) {
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (i < size) before[i] = Op{}(&values[slots[i]], operands[i]);
}

template <class Op, class T>
void update(int64_t size, TensorView values, TensorView slots, TensorView operands, TensorView before) {
  LaunchKernel(static_cast<unsigned>(div_ceil<int64_t>(size, 128)), 128, values.device())
      .run<update_kernel<Op, T>>(size, static_cast<T*>(values.data()), static_cast<const int*>(slots.data()),
                                 static_cast<const T*>(operands.data()), static_cast<T*>(before.data()));
}

#define OP(Name, function)                               \
  struct Name {                                          \
    template <class T>                                   \
    __device__ T operator()(T* address, T value) const { \
      return function(address, value);                   \
    }                                                    \
  };
OP(Add, atomicAdd)
OP(AddBlock, atomicAdd_block)
OP(AddSystem, atomicAdd_system)
OP(Sub, atomicSub)
OP(Exch, atomicExch)
OP(Min, atomicMin)
OP(Max, atomicMax)
OP(Inc, atomicInc)
OP(Dec, atomicDec)
OP(And, atomicAnd)
OP(Or, atomicOr)
OP(Xor, atomicXor)

/// Multiplies with compare-and-swap, as a kernel does whatever CUDA has no function for.
struct CasMultiply {
  template <class T>
  __device__ T operator()(T* address, T value) const {
    T old = *address, seen;
    do {
      seen = old;
      old = atomicCAS(address, seen, static_cast<T>(1u * seen * value));
    } while (old != seen);
    return old;
  }
};

}  // namespace minisgl::test
