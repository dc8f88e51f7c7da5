// Exported from notebooks/07_radix.md by "minisgl book export"; edit it there. sha256:8414573d4821

#include <minisgl/common_prefix.h>
#include <minisgl/ffi.h>
#include <minisgl/ffi_objects.h>
#include <minisgl/radix_tree.h>
#include <minisgl/tensor.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/tvm_ffi.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace minisgl {

/// What Python holds of a tree. The exported functions take it as their first argument.
class RadixTreeObject : public ffi::LibraryObject {
 public:
  RadixTreeObject(int64_t page_size, tvm::ffi::String device) : tree(page_size), device(std::move(device)) {}
  RadixTree tree;
  tvm::ffi::String device;  ///< where Python wants the results
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("minisgl.RadixTree", RadixTreeObject, tvm::ffi::Object);
};

/// What Python holds of a path. It keeps the tree alive, so that its node can always be asked for.
class RadixHandleObject : public ffi::LibraryObject {
 public:
  explicit RadixHandleObject(RadixTreeObject* tree)
      : device(tree->device), tree(tvm::ffi::GetObjectPtr<RadixTreeObject>(tree)) {}
  int64_t cached_len = 0;
  int64_t num_present = 0;  ///< tokens that were here before the call that made this handle
  tvm::ffi::String device;
  tvm::ffi::ObjectPtr<RadixTreeObject> tree;
  RadixPath path;
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("minisgl.RadixHandle", RadixHandleObject, tvm::ffi::Object);
};

namespace {

constexpr DLDataType kInt32{kDLInt, 32, 1}, kInt64{kDLInt, 64, 1};

bool is_integer_list(const TensorView& tensor) {
  const auto dtype = tensor.dtype();
  return tensor.dim() == 1 && dtype.code == kDLInt && (dtype.bits == 32 || dtype.bits == 64) && dtype.lanes == 1 &&
         tensor.device().device_type == kDLCPU && (tensor.size(0) <= 1 || tensor.stride(0) == 1) &&
         (tensor.has_memory() || tensor.size(0) == 0);
}

[[noreturn]] void refuse_list(const char* argument, const std::string& size, const TensorView& tensor) {
  const auto dtype = tensor.dtype();
  const bool is_integer = dtype.code == kDLInt && (dtype.bits == 32 || dtype.bits == 64) && dtype.lanes == 1;
  std::string got;
  for (int i = 0; i < tensor.dim(); ++i) {
    if (i) got += ", ";
    got += std::to_string(tensor.size(i));
  }
  got = "[" + got + "] " + to_string(dtype) + " on " + to_string(tensor.device());
  if (tensor.dim() == 1 && tensor.stride(0) != 1) got += " with a stride of " + std::to_string(tensor.stride(0));
  if (!tensor.has_memory()) got += " without memory";
  fail(is_integer ? "ValueError" : "TypeError", argument, ": expected [", size,
       "] int32|int64 on cpu, contiguous, got ", got);
}

/// Check a list of integers, as long as `size` if that is not negative. TensorMatcher would take 20 ns, a tenth of a call.
TokenView integers_of(const char* argument, const TensorView& tensor, int64_t size = -1) {
  if (!is_integer_list(tensor) || (size >= 0 && tensor.size(0) != size)) [[unlikely]] {
    refuse_list(argument, size < 0 ? "L" : "L=" + std::to_string(size), tensor);
  }
  return {tensor.data(), tensor.size(0), tensor.dtype().bits == 64};
}

struct Keys {
  TokenView x, y;
};

Keys keys_of(const TensorView& x, const TensorView& y) {
  const Keys keys{integers_of("x", x), integers_of("y", y)};
  if (keys.x.is_wide != keys.y.is_wide) [[unlikely]] {
    fail("TypeError", "y: expected ", to_string(x.dtype()), " as x, got ", to_string(y.dtype()));
  }
  return keys;
}

int64_t fast_compare_key(TensorView x, TensorView y) {
  const auto keys = keys_of(x, y);
  return common_prefix(keys.x, keys.y);
}

/// The same on one of this machine's vector units.
int64_t compare_key_with(TensorView x, TensorView y, int64_t unit) {
  const auto keys = keys_of(x, y);
  require(0 <= unit && unit <= static_cast<int64_t>(widest_vector_unit()), "ValueError",
          "unit: expected one of this machine's, got ", unit);
  const auto which = static_cast<VectorUnit>(unit);
  const auto size = std::min(keys.x.size, keys.y.size);
  if (keys.x.is_wide) return common_prefix_on<int64_t, int64_t>(which)(keys.x.wide(), keys.y.wide(), size);
  return common_prefix_on<int32_t, int32_t>(which)(keys.x.narrow(), keys.y.narrow(), size);
}

/// The names of this machine's vector units, the widest last.
ffi::Returned vector_units() {
  tvm::ffi::Array<tvm::ffi::String> names;
  for (int unit = 0; unit <= static_cast<int>(widest_vector_unit()); ++unit) {
    names.push_back(to_string(static_cast<VectorUnit>(unit)));
  }
  return {names};
}

ffi::Returned new_tree(int64_t page_size, tvm::ffi::String device) {
  return {tvm::ffi::ObjectRef(tvm::ffi::make_object<RadixTreeObject>(page_size, std::move(device)))};
}

using NewHandle = tvm::ffi::ObjectPtr<RadixHandleObject>;

/// Made before anything changes: if memory runs out, nothing has happened.
NewHandle new_handle(RadixTreeObject* tree) { return tvm::ffi::make_object<RadixHandleObject>(tree); }

ffi::Returned finished(NewHandle handle, const RadixPath& path, int64_t num_present) {
  handle->path = path;
  handle->cached_len = path.length;
  handle->num_present = num_present;
  return {tvm::ffi::ObjectRef(std::move(handle))};
}

RadixPath& path_of(RadixTreeObject* tree, RadixHandleObject* handle) {
  require(handle->tree.get() == tree, "ValueError", "handle: expected one of this cache, got one of another");
  return handle->path;
}

ffi::Returned find(RadixTreeObject* tree, const TensorView& input_ids, bool lock) {
  const auto tokens = integers_of("input_ids", input_ids);
  auto handle = new_handle(tree);
  const auto path = tree->tree.match(tokens, lock);
  return finished(std::move(handle), path, path.length);
}

ffi::Returned match_prefix(RadixTreeObject* tree, TensorView input_ids) { return find(tree, input_ids, false); }
ffi::Returned match_and_lock(RadixTreeObject* tree, TensorView input_ids) { return find(tree, input_ids, true); }

ffi::Returned insert_prefix(RadixTreeObject* tree, TensorView input_ids, TensorView indices) {
  const auto tokens = integers_of("input_ids", input_ids);
  const auto values = integers_of("indices", indices, tokens.size);
  auto handle = new_handle(tree);
  const auto inserted = tree->tree.insert(tokens, values.data, values.is_wide ? 8 : 4);
  return finished(std::move(handle), inserted.path, inserted.length_before);
}

ffi::Returned insert_and_unlock(RadixTreeObject* tree, TensorView input_ids, TensorView indices,
                                RadixHandleObject* locked) {
  const auto tokens = integers_of("input_ids", input_ids);
  const auto values = integers_of("indices", indices, tokens.size);
  auto& path = path_of(tree, locked);
  auto handle = new_handle(tree);
  const auto inserted = tree->tree.insert_and_unlock(tokens, values.data, values.is_wide ? 8 : 4, path);
  return finished(std::move(handle), inserted.path, inserted.length_before);
}

void lock_handle(RadixTreeObject* tree, RadixHandleObject* handle, bool unlock) {
  auto& path = path_of(tree, handle);
  unlock ? tree->tree.unlock(path) : tree->tree.lock(path);
}

/// Results are PyTorch tensors from PyTorch's allocator, because one of the arguments is one: that is what the unused
/// tensors of the functions below are for.
tvm::ffi::Tensor new_tensor(int64_t size, int bytes) {
  const DLDevice cpu{kDLCPU, 0};
  return tvm::ffi::Tensor::FromEnvAlloc(TVMFFIEnvTensorAlloc, {size}, bytes == 4 ? kInt32 : kInt64, cpu);
}

ffi::Returned evict(RadixTreeObject* tree, int64_t size, TensorView) {
  tvm::ffi::Tensor indices;
  tree->tree.evict(size, [&](int64_t num_tokens, int bytes) {
    indices = new_tensor(num_tokens, bytes);
    return indices.data_ptr();
  });
  return {indices};
}

ffi::Returned get_matched_indices(RadixHandleObject* handle, TensorView) {
  tvm::ffi::Tensor indices;
  handle->tree->tree.copy_indices(handle->path, [&](int64_t num_tokens, int bytes) {
    indices = new_tensor(num_tokens, bytes);
    return indices.data_ptr();
  });
  return {indices};
}

void reset(RadixTreeObject* tree) { tree->tree.reset(); }

void check_integrity(RadixTreeObject* tree) { tree->tree.check_integrity(); }

ffi::Returned list_of(const std::vector<int64_t>& list) {
  auto tensor = new_tensor(static_cast<int64_t>(list.size()), 8);
  std::copy(list.begin(), list.end(), static_cast<int64_t*>(tensor.data_ptr()));
  return {tensor};
}

ffi::Returned sizes(RadixTreeObject* tree, TensorView) {
  const auto s = tree->tree.sizes();
  const auto& c = s.counters;
  return list_of({s.evictable_tokens, s.protected_tokens, s.num_nodes, s.array_bytes, s.node_bytes, c.lookups, c.hits,
                  c.tokens_looked_up, c.tokens_saved, c.tokens_inserted, c.nodes_evicted, c.tokens_evicted});
}

/// All nodes but the root in one list: slot, parent's slot, locks, LRU rank, number of tokens, tokens; and so on.
ffi::Returned describe_nodes(RadixTreeObject* tree, TensorView) {
  std::vector<int64_t> list;
  tree->tree.for_each([&](const RadixNode& node, int64_t lru_rank) {
    list.insert(list.end(), {node.slot, node.parent->slot, node.num_locks, lru_rank, node.length});
    const auto tokens = node.tokens();
    for (int64_t i = 0; i < tokens.size; ++i) list.push_back(tokens[i]);
  });
  return list_of(list);
}

TVM_FFI_STATIC_INIT_BLOCK() {
  namespace refl = tvm::ffi::reflection;
  if (ffi::is_registered<RadixHandleObject>()) return;
  refl::ObjectDef<RadixTreeObject>();
  refl::ObjectDef<RadixHandleObject>()
      .def_ro("cached_len", &RadixHandleObject::cached_len)
      .def_ro("num_present", &RadixHandleObject::num_present)
      .def_ro("device", &RadixHandleObject::device);
}

}  // namespace
}  // namespace minisgl

MINISGL_EXPORT(fast_compare_key, minisgl::fast_compare_key)
MINISGL_EXPORT(compare_key_with, minisgl::compare_key_with)
MINISGL_EXPORT(vector_units, minisgl::vector_units)
MINISGL_EXPORT(new_tree, minisgl::new_tree)
MINISGL_EXPORT(match_prefix, minisgl::match_prefix)
MINISGL_EXPORT(match_and_lock, minisgl::match_and_lock)
MINISGL_EXPORT(insert_prefix, minisgl::insert_prefix)
MINISGL_EXPORT(insert_and_unlock, minisgl::insert_and_unlock)
MINISGL_EXPORT(lock_handle, minisgl::lock_handle)
MINISGL_EXPORT(evict, minisgl::evict)
MINISGL_EXPORT(get_matched_indices, minisgl::get_matched_indices)
MINISGL_EXPORT(reset, minisgl::reset)
MINISGL_EXPORT(check_integrity, minisgl::check_integrity)
MINISGL_EXPORT(sizes, minisgl::sizes)
MINISGL_EXPORT(describe_nodes, minisgl::describe_nodes)
