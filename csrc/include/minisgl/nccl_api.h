// Exported from notebooks/08_nccl.md by "minisgl book export"; edit it there. sha256:290fce06b468

#pragma once

#include <cuda_runtime.h>
#include <dlfcn.h>
#include <minisgl/utils.h>

#include <climits>
#include <cstddef>
#include <string>

/// NCCL, as far as this package calls it. The library is opened when it is needed, so nothing here is linked, and no
/// header of NCCL's is needed to build. A test holds every line against NVIDIA's own header.
namespace minisgl::nccl {

struct OpaqueComm;
struct OpaqueWindow;
using Comm = OpaqueComm*;
using Window = OpaqueWindow*;

struct UniqueId {
  char internal[128];
};

enum Result : int {
  kSuccess = 0,
  kUnhandledCudaError = 1,
  kSystemError = 2,
  kInternalError = 3,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
  kInProgress = 7,
};

enum RedOp : int { kSum = 0, kProd = 1, kMax = 2, kMin = 3, kAvg = 4 };

enum DataType : int {
  kInt8 = 0,
  kUint8 = 1,
  kInt32 = 2,
  kUint32 = 3,
  kInt64 = 4,
  kUint64 = 5,
  kFloat16 = 6,
  kFloat32 = 7,
  kFloat64 = 8,
  kBfloat16 = 9,
  kFloat8e4m3 = 10,  // from 2.24 on
  kFloat8e5m2 = 11,
};

inline constexpr int kWinCollSymmetric = 1;
inline constexpr int kUndefined = INT_MIN;

constexpr int version_code(int major, int minor, int patch) { return major * 10000 + minor * 100 + patch; }

inline constexpr int kMinVersion = version_code(2, 18, 1);
inline constexpr int kFloat8Version = version_code(2, 24, 3);
inline constexpr int kWindowVersion = version_code(2, 27, 3);

/// The beginning of ncclConfig_t, as it was in 2.18. `size` and `version` tell the library where it ends.
struct Config {
  size_t size = sizeof(Config);
  unsigned magic = 0xcafebeef;
  unsigned version = kMinVersion;
  int blocking = 1;  // a call waits for the other ranks; CommAbort from another thread sets it free
  int cga_cluster_size = kUndefined;
  int min_ctas = kUndefined;
  int max_ctas = kUndefined;
  const char* net_name = nullptr;
  int split_share = kUndefined;
};

/// The functions of one opened library; the optional ones are null where it is too old.
struct Api {
  Result (*GetVersion)(int*);
  Result (*GetUniqueId)(UniqueId*);
  const char* (*GetErrorString)(Result);
  const char* (*GetLastError)(Comm);
  Result (*CommInitRankConfig)(Comm*, int, UniqueId, int, Config*);
  Result (*CommSplit)(Comm, int, int, Comm*, Config*);
  Result (*CommCount)(Comm, int*);
  Result (*CommUserRank)(Comm, int*);
  Result (*CommGetAsyncError)(Comm, Result*);
  Result (*CommFinalize)(Comm);
  Result (*CommDestroy)(Comm);
  Result (*CommAbort)(Comm);
  Result (*GroupStart)();
  Result (*GroupEnd)();
  Result (*AllReduce)(const void*, void*, size_t, DataType, RedOp, Comm, cudaStream_t);
  Result (*AllGather)(const void*, void*, size_t, DataType, Comm, cudaStream_t);
  Result (*ReduceScatter)(const void*, void*, size_t, DataType, RedOp, Comm, cudaStream_t);
  Result (*Broadcast)(const void*, void*, size_t, DataType, int, Comm, cudaStream_t);
  Result (*Send)(const void*, size_t, DataType, int, Comm, cudaStream_t);
  Result (*Recv)(void*, size_t, DataType, int, Comm, cudaStream_t);
  Result (*MemAlloc)(void**, size_t);                               // optional
  Result (*MemFree)(void*);                                         // optional
  Result (*CommWindowRegister)(Comm, void*, size_t, Window*, int);  // optional
  Result (*CommWindowDeregister)(Comm, Window);                     // optional
  int version;

  bool has_windows() const {
    return version >= kWindowVersion && MemAlloc && MemFree && CommWindowRegister && CommWindowDeregister;
  }
};

namespace detail {

template <class Function>
void find(void* library, const std::string& path, const char* name, Function*& function, bool optional = false) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  require(function || optional, "RuntimeError", "NCCL: ", path, " has no ", name, "; version 2.18 or newer is needed");
}

}  // namespace detail

inline std::string version_text(int version) {
  const int major = version < 10000 ? 1000 : 10000;  // up to 2.8 it was counted in thousands
  return std::to_string(version / major) + "." + std::to_string(version % major / 100) + "." +
         std::to_string(version % 100);
}

/// Open the library at `path` for the rest of the process and look its functions up.
inline Api open_library(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  require(library != nullptr, "RuntimeError", "NCCL: cannot open the library: ", library ? "" : dlerror());
  Api api{};
  const auto find = [&](const char* name, auto*& function, bool optional = false) {
    detail::find(library, path, name, function, optional);
  };
  find("ncclGetVersion", api.GetVersion);
  const auto result = api.GetVersion(&api.version);
  require(result == kSuccess && api.version >= kMinVersion, "RuntimeError", "NCCL: ", path, " is version ",
          version_text(api.version), "; ", version_text(kMinVersion), " or newer is needed");
  find("ncclGetUniqueId", api.GetUniqueId);
  find("ncclGetErrorString", api.GetErrorString);
  find("ncclGetLastError", api.GetLastError);
  find("ncclCommInitRankConfig", api.CommInitRankConfig);
  find("ncclCommSplit", api.CommSplit);
  find("ncclCommCount", api.CommCount);
  find("ncclCommUserRank", api.CommUserRank);
  find("ncclCommGetAsyncError", api.CommGetAsyncError);
  find("ncclCommFinalize", api.CommFinalize);
  find("ncclCommDestroy", api.CommDestroy);
  find("ncclCommAbort", api.CommAbort);
  find("ncclGroupStart", api.GroupStart);
  find("ncclGroupEnd", api.GroupEnd);
  find("ncclAllReduce", api.AllReduce);
  find("ncclAllGather", api.AllGather);
  find("ncclReduceScatter", api.ReduceScatter);
  find("ncclBroadcast", api.Broadcast);
  find("ncclSend", api.Send);
  find("ncclRecv", api.Recv);
  find("ncclMemAlloc", api.MemAlloc, true);
  find("ncclMemFree", api.MemFree, true);
  find("ncclCommWindowRegister", api.CommWindowRegister, true);
  find("ncclCommWindowDeregister", api.CommWindowDeregister, true);
  return api;
}

}  // namespace minisgl::nccl
