// Claims: initialisation, lookup of functions, devices.
#include <cstring>

#include "tests/conformance/driver/probe.h"

namespace conformance {
namespace {

void BeforeInit(Probe& probe) {
  auto& cuda = probe.cuda;
  int count = 0;
  CUcontext context = nullptr;
  EXPECT_CU(cuda.cuDeviceGetCount(&count), CUDA_ERROR_NOT_INITIALIZED);
  EXPECT_CU(cuda.cuCtxGetCurrent(&context), CUDA_ERROR_NOT_INITIALIZED);
  EXPECT_CU(cuda.cuInit(1), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuInit(0), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuInit(0), CUDA_SUCCESS);
}

void VersionNeedsNoInit(Probe& probe) {
  int version = 0;
  EXPECT_CU(probe.cuda.cuDriverGetVersion(&version), CUDA_SUCCESS);
  EXPECT_HOLDS(version >= 12000 && version % 10 == 0);
  EXPECT_CU(probe.cuda.cuDriverGetVersion(nullptr), CUDA_ERROR_INVALID_VALUE);
}

void ErrorsHaveNames(Probe& probe) {
  const char* text = nullptr;
  EXPECT_CU(probe.cuda.cuGetErrorName(CUDA_ERROR_ILLEGAL_ADDRESS, &text), CUDA_SUCCESS);
  EXPECT_HOLDS(text != nullptr && std::strcmp(text, "CUDA_ERROR_ILLEGAL_ADDRESS") == 0);
  EXPECT_CU(probe.cuda.cuGetErrorString(CUDA_ERROR_OUT_OF_MEMORY, &text), CUDA_SUCCESS);
  EXPECT_HOLDS(text != nullptr && std::strcmp(text, "out of memory") == 0);
  EXPECT_CU(probe.cuda.cuGetErrorName(static_cast<CUresult>(987654), &text), CUDA_ERROR_INVALID_VALUE);
}

void LookupFollowsVersions(Probe& probe) {
  auto& cuda = probe.cuda;
  NEED_FUNCTION(cuGetProcAddress_v2);
  NEED_CU(cuda.cuInit(0));
  void* found = nullptr;
  CUdriverProcAddressQueryResult status{};
  EXPECT_CU(cuda.cuGetProcAddress_v2("cuMemAlloc", &found, 3020, 0, &status), CUDA_SUCCESS);
  EXPECT_HOLDS(found != nullptr && status == CU_GET_PROC_ADDRESS_SUCCESS);
  EXPECT_CU(cuda.cuGetProcAddress_v2("cuMemCreate", &found, 9000, 0, &status), CUDA_SUCCESS);
  EXPECT_HOLDS(found == nullptr && status == CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
  EXPECT_CU(cuda.cuGetProcAddress_v2("cuNoSuchFunction", &found, 13000, 0, &status), CUDA_SUCCESS);
  EXPECT_HOLDS(found == nullptr && status == CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
  EXPECT_CU(cuda.cuGetProcAddress_v2("cuMemAlloc", nullptr, 3020, 0, &status), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuGetProcAddress_v2("cuMemAlloc", &found, 3020, 4, &status), CUDA_ERROR_INVALID_VALUE);
}

void LookupTakesBaseNamesOnly(Probe& probe) {
  NEED_FUNCTION(cuGetProcAddress_v2);
  NEED_CU(probe.cuda.cuInit(0));
  void* found = nullptr;
  CUdriverProcAddressQueryResult status{};
  EXPECT_CU(probe.cuda.cuGetProcAddress_v2("cuMemAlloc_v2", &found, 12000, 0, &status), CUDA_SUCCESS);
  EXPECT_HOLDS(found == nullptr && status == CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
}

void DevicesAreNumbered(Probe& probe) {
  auto& cuda = probe.cuda;
  NEED_CU(cuda.cuInit(0));
  int count = 0;
  NEED_CU(cuda.cuDeviceGetCount(&count));
  EXPECT_HOLDS(count > 0);
  CUdevice device = -1;
  EXPECT_CU(cuda.cuDeviceGet(&device, 0), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuDeviceGet(&device, count), CUDA_ERROR_INVALID_DEVICE);
  EXPECT_CU(cuda.cuDeviceGet(&device, -1), CUDA_ERROR_INVALID_DEVICE);
  EXPECT_CU(cuda.cuDeviceGet(nullptr, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuDeviceGetCount(nullptr), CUDA_ERROR_INVALID_VALUE);
  std::size_t bytes = 0;
  EXPECT_CU(cuda.cuDeviceTotalMem_v2(&bytes, count), CUDA_ERROR_INVALID_DEVICE);
}

void DevicesAreDescribed(Probe& probe) {
  auto& cuda = probe.cuda;
  NEED_CU(cuda.cuInit(0));
  char name[256] = {};
  EXPECT_CU(cuda.cuDeviceGetName(name, sizeof(name), 0), CUDA_SUCCESS);
  EXPECT_HOLDS(name[0] != '\0');
  char cut[4] = {'x', 'x', 'x', 'x'};
  EXPECT_CU(cuda.cuDeviceGetName(cut, sizeof(cut), 0), CUDA_SUCCESS);
  EXPECT_HOLDS(cut[3] == '\0' && std::strncmp(cut, name, 3) == 0);
  int value = 0;
  EXPECT_CU(cuda.cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 0), CUDA_SUCCESS);
  EXPECT_HOLDS(value == 32);
  EXPECT_CU(cuda.cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 0), CUDA_SUCCESS);
  EXPECT_HOLDS(value == 1);
  EXPECT_CU(cuda.cuDeviceGetAttribute(&value, static_cast<CUdevice_attribute>(100000), 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuDeviceGetAttribute(nullptr, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 0), CUDA_ERROR_INVALID_VALUE);
  char pci[32] = {};
  EXPECT_CU(cuda.cuDeviceGetPCIBusId(pci, sizeof(pci), 0), CUDA_SUCCESS);
  CUdevice found = -1;
  EXPECT_CU(cuda.cuDeviceGetByPCIBusId(&found, pci), CUDA_SUCCESS);
  EXPECT_HOLDS(found == 0);
}

void PropertiesAreAttributes(Probe& probe) {
  auto& cuda = probe.cuda;
  NEED_CU(cuda.cuInit(0));
  CUdevprop properties{};
  int value = 0;
  EXPECT_CU(cuda.cuDeviceGetProperties(&properties, 0), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 0), CUDA_SUCCESS);
  EXPECT_HOLDS(properties.maxThreadsPerBlock == value && properties.SIMDWidth == 32);
  int major = 0;
  int minor = -1;
  EXPECT_CU(cuda.cuDeviceComputeCapability(&major, &minor, 0), CUDA_SUCCESS);
  EXPECT_HOLDS(major >= 5 && minor >= 0);
}

constexpr Claim kClaims[] = {
    {"BeforeInit", "before cuInit calls are NOT_INITIALIZED; its flags must be 0; twice is once", &BeforeInit},
    {"VersionNeedsNoInit", "cuDriverGetVersion works before cuInit", &VersionNeedsNoInit},
    {"ErrorsHaveNames", "cuGetErrorName and cuGetErrorString know errors, and refuse others", &ErrorsHaveNames},
    {"LookupFollowsVersions", "cuGetProcAddress gives nothing newer than the version asked", &LookupFollowsVersions},
    {"LookupTakesBaseNamesOnly", "cuGetProcAddress does not know names with _v2", &LookupTakesBaseNamesOnly},
    {"DevicesAreNumbered", "ordinals beyond the count are INVALID_DEVICE", &DevicesAreNumbered},
    {"DevicesAreDescribed", "names are cut to fit, attributes answered, PCI ids lead back", &DevicesAreDescribed},
    {"PropertiesAreAttributes", "cuDeviceGetProperties says what the attributes say", &PropertiesAreAttributes},
};

}  // namespace

std::span<const Claim> DeviceClaims() { return kClaims; }

}  // namespace conformance
