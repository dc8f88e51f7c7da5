// Holds minisgl/nccl_api.h against NVIDIA's nccl.h. Whatever differs does not compile.
#include <nccl.h>

#include <minisgl/nccl_api.h>

#include <cstddef>
#include <type_traits>

namespace {

namespace ours = minisgl::nccl;

/// NVIDIA's name of a type that we declare under another.
template <class T>
struct Theirs {
  using Type = T;
};

template <class T>
struct Theirs<T*> {
  using Type = typename Theirs<T>::Type*;
};

template <class Result, class... Parameters>
struct Theirs<Result(Parameters...)> {
  using Type = typename Theirs<Result>::Type(typename Theirs<Parameters>::Type...);
};

#define SAME_TYPE(our, their)                                \
  template <>                                                \
  struct Theirs<ours::our> {                                 \
    using Type = their;                                      \
  };                                                         \
  static_assert(alignof(ours::our) == alignof(their), #our); \
  static_assert(std::is_enum_v<ours::our> == std::is_enum_v<their>, #our)

SAME_TYPE(Comm, ncclComm_t);
SAME_TYPE(Window, ncclWindow_t);
SAME_TYPE(UniqueId, ncclUniqueId);
SAME_TYPE(Config, ncclConfig_t);
SAME_TYPE(Result, ncclResult_t);
SAME_TYPE(RedOp, ncclRedOp_t);
SAME_TYPE(DataType, ncclDataType_t);

static_assert(sizeof(ours::Comm) == sizeof(ncclComm_t));
static_assert(sizeof(ours::Window) == sizeof(ncclWindow_t));
static_assert(sizeof(ours::UniqueId) == sizeof(ncclUniqueId));
static_assert(sizeof(ours::Result) == sizeof(ncclResult_t));
static_assert(sizeof(ours::RedOp) == sizeof(ncclRedOp_t));
static_assert(sizeof(ours::DataType) == sizeof(ncclDataType_t));
static_assert(std::is_same_v<decltype(ours::UniqueId::internal), decltype(ncclUniqueId::internal)>);

#define SAME_VALUE(our, their) static_assert(static_cast<long long>(ours::our) == static_cast<long long>(their), #our)

SAME_VALUE(kSuccess, ncclSuccess);
SAME_VALUE(kUnhandledCudaError, ncclUnhandledCudaError);
SAME_VALUE(kSystemError, ncclSystemError);
SAME_VALUE(kInternalError, ncclInternalError);
SAME_VALUE(kInvalidArgument, ncclInvalidArgument);
SAME_VALUE(kInvalidUsage, ncclInvalidUsage);
SAME_VALUE(kRemoteError, ncclRemoteError);
SAME_VALUE(kInProgress, ncclInProgress);

SAME_VALUE(kSum, ncclSum);
SAME_VALUE(kProd, ncclProd);
SAME_VALUE(kMax, ncclMax);
SAME_VALUE(kMin, ncclMin);
SAME_VALUE(kAvg, ncclAvg);

SAME_VALUE(kInt8, ncclInt8);
SAME_VALUE(kUint8, ncclUint8);
SAME_VALUE(kInt32, ncclInt32);
SAME_VALUE(kUint32, ncclUint32);
SAME_VALUE(kInt64, ncclInt64);
SAME_VALUE(kUint64, ncclUint64);
SAME_VALUE(kFloat16, ncclFloat16);
SAME_VALUE(kFloat32, ncclFloat32);
SAME_VALUE(kFloat64, ncclFloat64);
SAME_VALUE(kBfloat16, ncclBfloat16);
SAME_VALUE(kFloat8e4m3, ncclFloat8e4m3);
SAME_VALUE(kFloat8e5m2, ncclFloat8e5m2);

SAME_VALUE(kWinCollSymmetric, NCCL_WIN_COLL_SYMMETRIC);
SAME_VALUE(kUndefined, NCCL_CONFIG_UNDEF_INT);
SAME_VALUE(kMinVersion, NCCL_VERSION(2, 18, 1));
SAME_VALUE(kFloat8Version, NCCL_VERSION(2, 24, 3));
SAME_VALUE(kWindowVersion, NCCL_VERSION(2, 27, 3));
SAME_VALUE(version_code(NCCL_MAJOR, NCCL_MINOR, NCCL_PATCH), NCCL_VERSION_CODE);

// A field of our shorter configuration lies where theirs does, and starts with what their initialiser says.
constexpr ours::Config kOurConfig;
constexpr ncclConfig_t kTheirConfig = NCCL_CONFIG_INITIALIZER;

#define SAME_FIELD(our, their)                                                       \
  static_assert(offsetof(ours::Config, our) == offsetof(ncclConfig_t, their), #our); \
  static_assert(std::is_same_v<decltype(ours::Config::our), decltype(ncclConfig_t::their)>, #our)

#define SAME_DEFAULT(our, their) \
  SAME_FIELD(our, their);        \
  static_assert(kOurConfig.our == kTheirConfig.their, #our)

SAME_FIELD(size, size);
SAME_DEFAULT(magic, magic);
SAME_FIELD(version, version);
SAME_FIELD(blocking, blocking);
SAME_DEFAULT(cga_cluster_size, cgaClusterSize);
SAME_DEFAULT(min_ctas, minCTAs);
SAME_DEFAULT(max_ctas, maxCTAs);
SAME_DEFAULT(net_name, netName);
SAME_DEFAULT(split_share, splitShare);
static_assert(kOurConfig.size == sizeof(ours::Config) && sizeof(ours::Config) <= sizeof(ncclConfig_t));
static_assert(sizeof(ours::Config) == offsetof(ncclConfig_t, commName), "it ends where 2.18 did, padding included");
static_assert(kOurConfig.version == ours::kMinVersion && kOurConfig.version <= NCCL_VERSION_CODE);
static_assert(kOurConfig.blocking == 1, "the library would not wait for other ranks, as its caller expects");

#define SAME_FUNCTION(name) \
  static_assert(std::is_same_v<Theirs<decltype(ours::Api::name)>::Type, decltype(&nccl##name)>, #name)

SAME_FUNCTION(GetVersion);
SAME_FUNCTION(GetUniqueId);
SAME_FUNCTION(GetErrorString);
SAME_FUNCTION(GetLastError);
SAME_FUNCTION(CommInitRankConfig);
SAME_FUNCTION(CommSplit);
SAME_FUNCTION(CommCount);
SAME_FUNCTION(CommUserRank);
SAME_FUNCTION(CommGetAsyncError);
SAME_FUNCTION(CommFinalize);
SAME_FUNCTION(CommDestroy);
SAME_FUNCTION(CommAbort);
SAME_FUNCTION(GroupStart);
SAME_FUNCTION(GroupEnd);
SAME_FUNCTION(AllReduce);
SAME_FUNCTION(AllGather);
SAME_FUNCTION(ReduceScatter);
SAME_FUNCTION(Broadcast);
SAME_FUNCTION(Send);
SAME_FUNCTION(Recv);
SAME_FUNCTION(MemAlloc);
SAME_FUNCTION(MemFree);
SAME_FUNCTION(CommWindowRegister);
SAME_FUNCTION(CommWindowDeregister);

}  // namespace
