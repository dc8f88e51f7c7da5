// Exported from notebooks/08_nccl.md by "minisgl book export"; edit it there. sha256:31d4efb588ba

#include <dlfcn.h>
#include <minisgl/ffi.h>
#include <minisgl/ffi_objects.h>
#include <minisgl/nccl_communicator.h>
#include <tvm/ffi/tvm_ffi.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>

namespace minisgl {

/// What Python holds of an opened library.
class NcclLibraryObject : public ffi::LibraryObject {
 public:
  explicit NcclLibraryObject(const std::string& path) : api(nccl::open_library(path)) {}
  nccl::Api api;
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("minisgl.NcclLibrary", NcclLibraryObject, tvm::ffi::Object);
};

/// What Python holds of a communicator.
class NcclCommunicatorObject : public ffi::LibraryObject {
 public:
  explicit NcclCommunicatorObject(std::unique_ptr<NcclCommunicator> communicator)
      : communicator(std::move(communicator)) {}
  std::unique_ptr<NcclCommunicator> communicator;
  NcclCommunicator* operator->() { return communicator.get(); }
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("minisgl.NcclCommunicator", NcclCommunicatorObject, tvm::ffi::Object);
};

namespace {

/// At the end of the process a thread may still be inside a call, or a tensor show a buffer, while Python lets go of its
/// modules: this library is never unloaded.
void stay_loaded() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&stay_loaded), &info)) {
    static_cast<void>(dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE));
  }
}

ffi::Returned open_library(tvm::ffi::String path) {
  stay_loaded();
  return {tvm::ffi::ObjectRef(tvm::ffi::make_object<NcclLibraryObject>(std::string(path)))};
}

int64_t library_version(NcclLibraryObject* library) { return library->api.version; }

bool library_has_windows(NcclLibraryObject* library) { return library->api.has_windows(); }

/// 128 bytes that rank 0 makes and tells the others.
ffi::Returned new_unique_id(NcclLibraryObject* library) {
  nccl::UniqueId id;
  check_nccl(library->api, library->api.GetUniqueId(&id));
  return {tvm::ffi::Bytes(id.internal, sizeof(id.internal))};
}

ffi::Returned wrap(std::unique_ptr<NcclCommunicator> communicator) {
  if (!communicator) return {tvm::ffi::Any(nullptr)};
  return {tvm::ffi::ObjectRef(tvm::ffi::make_object<NcclCommunicatorObject>(std::move(communicator)))};
}

ffi::Returned new_communicator(NcclLibraryObject* library, tvm::ffi::Bytes id, int64_t rank, int64_t size,
                               int64_t device, double timeout_seconds, int64_t buffer_bytes) {
  nccl::UniqueId unique_id;
  require(id.size() == sizeof(unique_id.internal), "ValueError", "id: expected 128 bytes");
  std::memcpy(unique_id.internal, id.data(), id.size());
  const NcclCommunicator::Options options{static_cast<int>(device), timeout_seconds, buffer_bytes};
  return wrap(
      NcclCommunicator::create(library->api, unique_id, static_cast<int>(rank), static_cast<int>(size), options));
}

ffi::Returned split(NcclCommunicatorObject* communicator, int64_t color, int64_t key) {
  return wrap((*communicator)->split(color, key));
}

int64_t rank_of(NcclCommunicatorObject* communicator) { return (*communicator)->rank(); }
int64_t size_of(NcclCommunicatorObject* communicator) { return (*communicator)->size(); }

void all_reduce(NcclCommunicatorObject* communicator, TensorView tensor, int64_t op) {
  (*communicator)->all_reduce(tensor, static_cast<nccl::RedOp>(op));
}

void all_gather(NcclCommunicatorObject* communicator, TensorView output, TensorView input) {
  (*communicator)->all_gather(output, input);
}

void reduce_scatter(NcclCommunicatorObject* communicator, TensorView output, TensorView input, int64_t op) {
  (*communicator)->reduce_scatter(output, input, static_cast<nccl::RedOp>(op));
}

void broadcast(NcclCommunicatorObject* communicator, TensorView tensor, int64_t root) {
  (*communicator)->broadcast(tensor, root);
}

void send(NcclCommunicatorObject* communicator, TensorView tensor, int64_t peer) {
  (*communicator)->send(tensor, peer);
}
void recv(NcclCommunicatorObject* communicator, TensorView tensor, int64_t peer) {
  (*communicator)->recv(tensor, peer);
}
void start_group(NcclCommunicatorObject* communicator) { (*communicator)->start_group(); }
void end_group(NcclCommunicatorObject* communicator) { (*communicator)->end_group(); }
void drop_group(NcclCommunicatorObject* communicator) { (*communicator)->drop_group(); }
void check(NcclCommunicatorObject* communicator) { (*communicator)->require_healthy(); }
void close(NcclCommunicatorObject* communicator) { (*communicator)->close(); }
void abandon(NcclCommunicatorObject* communicator) { (*communicator)->abandon(); }
void abandon_at_exit(NcclCommunicatorObject* communicator) { (*communicator)->abandon_at_exit(); }

/// Lets a tensor keep the memory that it shows.
struct BufferView {
  std::shared_ptr<void> memory;
  void AllocData(DLTensor* tensor) { tensor->data = memory.get(); }
  void FreeData(DLTensor*) {}
};

/// With a tensor among the arguments, TVM-FFI makes the result one of PyTorch.
ffi::Returned buffer_of(NcclCommunicatorObject* communicator, TensorView) {
  const auto buffer = (*communicator)->buffer();
  const auto device = (*communicator)->device();
  return {tvm::ffi::Tensor::FromNDAlloc(BufferView{buffer.data}, {buffer.bytes}, DLDataType{kDLUInt, 8, 1}, device)};
}

}  // namespace
}  // namespace minisgl

MINISGL_EXPORT(open_library, minisgl::open_library)
MINISGL_EXPORT(library_version, minisgl::library_version)
MINISGL_EXPORT(library_has_windows, minisgl::library_has_windows)
MINISGL_EXPORT(new_unique_id, minisgl::new_unique_id)
MINISGL_EXPORT(new_communicator, minisgl::new_communicator)
MINISGL_EXPORT(split, minisgl::split)
MINISGL_EXPORT(rank_of, minisgl::rank_of)
MINISGL_EXPORT(size_of, minisgl::size_of)
MINISGL_EXPORT(all_reduce, minisgl::all_reduce)
MINISGL_EXPORT(all_gather, minisgl::all_gather)
MINISGL_EXPORT(reduce_scatter, minisgl::reduce_scatter)
MINISGL_EXPORT(broadcast, minisgl::broadcast)
MINISGL_EXPORT(send, minisgl::send)
MINISGL_EXPORT(recv, minisgl::recv)
MINISGL_EXPORT(start_group, minisgl::start_group)
MINISGL_EXPORT(end_group, minisgl::end_group)
MINISGL_EXPORT(drop_group, minisgl::drop_group)
MINISGL_EXPORT(check, minisgl::check)
MINISGL_EXPORT(close, minisgl::close)
MINISGL_EXPORT(abandon, minisgl::abandon)
MINISGL_EXPORT(abandon_at_exit, minisgl::abandon_at_exit)
MINISGL_EXPORT(buffer_of, minisgl::buffer_of)
