// What the planted bugs share: arguments with names, and short launches.
#pragma once

#include <minisgl/tensor.h>
#include <minisgl/utils.h>
#include <minisgl/utils.cuh>

#include <cstddef>
#include <cstdint>

namespace minisgl::test {

/// A matrix whose rows lie apart as they like.
template <class T>
struct Rows {
  T* data;
  int num_rows;
  int num_columns;
  int stride;
};

template <class T>
Rows<T> rows(const char* name, TensorView tensor) {
  TensorMatcher({kAny, kAny}).with_strides({kAny, 1}).verify(name, tensor);
  return {static_cast<T*>(tensor.data()), static_cast<int>(tensor.size(0)), static_cast<int>(tensor.size(1)),
          static_cast<int>(tensor.stride(0))};
}

/// A contiguous list.
template <class T>
struct Items {
  T* data;
  int size;
};

template <class T>
Items<T> items(const char* name, TensorView tensor) {
  TensorMatcher({kAny}).verify(name, tensor);
  return {static_cast<T*>(tensor.data()), static_cast<int>(tensor.size(0))};
}

/// `size / num_threads` blocks, rounded up.
inline LaunchKernel launch_for(int size, int num_threads, DLDevice device, std::size_t shared_bytes = 0) {
  return {static_cast<unsigned>(div_ceil(size, num_threads)), static_cast<unsigned>(num_threads), device, shared_bytes};
}

}  // namespace minisgl::test
