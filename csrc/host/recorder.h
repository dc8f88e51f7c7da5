// Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:855f87e58d46

#pragma once

// What an instrumented kernel tells the recorder besides its accesses: which tensors it was called with.

#include <dlpack/dlpack.h>
#include <runtime.h>

#include <cstddef>

namespace minisgl::microscope {

/// A call from Python begins: the tensors of the call before it are forgotten.
MINISGL_HOST_API void observe_call(const char* function);

/// Argument number `position` of the call is this tensor.
MINISGL_HOST_API void observe_tensor(int position, const DLTensor* tensor);

/// The argument whose first element is at `data` is called `name`.
MINISGL_HOST_API void name_tensor(const void* data, const char* name);

/// Something other than a kernel, such as cudaMemsetAsync, has written `bytes` bytes at `data`.
MINISGL_HOST_API void observe_write(const void* data, std::size_t bytes);

}  // namespace minisgl::microscope
