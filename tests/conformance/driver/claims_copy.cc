// Claims: copies and fills.
#include <vector>

#include "tests/conformance/driver/probe.h"

namespace conformance {
namespace {

std::vector<unsigned char> Pattern(std::size_t bytes, unsigned seed) {
  std::vector<unsigned char> pattern(bytes);
  for (std::size_t i = 0; i < bytes; ++i) pattern[i] = static_cast<unsigned char>(i * 7 + i / 251 + seed);
  return pattern;
}

void CopiesBringBackWhatWasSent(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  for (const std::size_t bytes :
       {std::size_t{1}, std::size_t{16384}, std::size_t{16385}, (std::size_t{5} << 20) + 17}) {
    const auto sent = Pattern(bytes, 3);
    std::vector<unsigned char> back(bytes);
    const CUdeviceptr one = probe.Memory(bytes);
    const CUdeviceptr two = probe.Memory(bytes);
    EXPECT_CU(cuda.cuMemcpyHtoD_v2(one, sent.data(), bytes), CUDA_SUCCESS);
    EXPECT_CU(cuda.cuMemcpyDtoD_v2(two, one, bytes), CUDA_SUCCESS);
    EXPECT_CU(cuda.cuMemcpyDtoH_v2(back.data(), two, bytes), CUDA_SUCCESS);
    EXPECT_HOLDS(sent == back);
  }
}

void CopiesBeyondTheEndAreRefused(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  const std::size_t bytes = std::size_t{4} << 20;
  const CUdeviceptr memory = probe.Memory(bytes);
  std::vector<unsigned char> host(bytes);
  EXPECT_CU(cuda.cuMemcpyHtoD_v2(memory + 1, host.data(), bytes), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(host.data(), memory + 1, bytes), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemsetD8_v2(memory + 1, 0, bytes), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemcpyHtoD_v2(0, host.data(), 16), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemcpyHtoD_v2(memory, nullptr, 0), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuCtxSynchronize(), CUDA_SUCCESS);
}

void UnifiedCopiesFindTheirSides(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  const auto sent = Pattern(50000, 1);
  std::vector<unsigned char> back(sent.size());
  const CUdeviceptr memory = probe.Memory(sent.size());
  EXPECT_CU(cuda.cuMemcpy(memory, reinterpret_cast<CUdeviceptr>(sent.data()), sent.size()), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemcpy(reinterpret_cast<CUdeviceptr>(back.data()), memory, sent.size()), CUDA_SUCCESS);
  EXPECT_HOLDS(sent == back);
}

void FillsHaveThreeWidths(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  const CUdeviceptr memory = probe.Memory(1024);
  std::vector<unsigned char> back(1024);
  EXPECT_CU(cuda.cuMemsetD8_v2(memory, 0x11, 1024), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemsetD16_v2(memory + 2, 0x2233, 3), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemsetD32Async(memory + 16, 0x44556677, 2, nullptr), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(back.data(), memory, 1024), CUDA_SUCCESS);
  EXPECT_HOLDS(back[1] == 0x11 && back[2] == 0x33 && back[7] == 0x22 && back[8] == 0x11);
  EXPECT_HOLDS(back[16] == 0x77 && back[23] == 0x44 && back[24] == 0x11);
  EXPECT_CU(cuda.cuMemsetD16_v2(memory + 1, 0, 1), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemsetD32_v2(memory + 2, 0, 1), CUDA_ERROR_INVALID_VALUE);
}

void RowsAreFilled(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  CUdeviceptr memory = 0;
  std::size_t pitch = 0;
  NEED_CU(cuda.cuMemAllocPitch_v2(&memory, &pitch, 100, 8, 4));
  EXPECT_CU(cuda.cuMemsetD8_v2(memory, 0, pitch * 8), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemsetD2D32_v2(memory, pitch, 0x01020304, 25, 8), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemsetD2D8Async(memory + pitch, pitch, 9, 2, 1, nullptr), CUDA_SUCCESS);
  std::vector<unsigned char> back(pitch * 8);
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(back.data(), memory, back.size()), CUDA_SUCCESS);
  EXPECT_HOLDS(back[0] == 4 && back[99] == 1 && back[100] == 0);
  EXPECT_HOLDS(back[pitch] == 9 && back[pitch + 1] == 9 && back[pitch + 2] == 2 && back[7 * pitch + 99] == 1);
}

// Between all sides, with offsets in both directions.
void RectanglesAreCopied(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  const std::size_t host_pitch = 300;
  const std::size_t rows = 90;
  const auto sent = Pattern(host_pitch * rows, 5);
  CUdeviceptr one = 0;
  CUdeviceptr two = 0;
  std::size_t pitch = 0;
  NEED_CU(cuda.cuMemAllocPitch_v2(&one, &pitch, 300, rows, 4));
  NEED_CU(cuda.cuMemAllocPitch_v2(&two, &pitch, 300, rows, 4));
  CUDA_MEMCPY2D copy{};
  copy.srcMemoryType = CU_MEMORYTYPE_HOST;
  copy.srcHost = sent.data();
  copy.srcPitch = host_pitch;
  copy.srcXInBytes = 10;
  copy.srcY = 2;
  copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.dstDevice = one;
  copy.dstPitch = pitch;
  copy.WidthInBytes = 280;
  copy.Height = 80;
  EXPECT_CU(cuda.cuMemcpy2D_v2(&copy), CUDA_SUCCESS);
  CUDA_MEMCPY2D across{};
  across.srcMemoryType = CU_MEMORYTYPE_DEVICE;
  across.srcDevice = one;
  across.srcPitch = pitch;
  across.srcXInBytes = 8;
  across.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  across.dstDevice = two;
  across.dstPitch = pitch;
  across.dstY = 1;
  across.WidthInBytes = 200;
  across.Height = 70;
  EXPECT_CU(cuda.cuMemcpy2DAsync_v2(&across, nullptr), CUDA_SUCCESS);
  std::vector<unsigned char> back(host_pitch * rows);
  CUDA_MEMCPY2D home{};
  home.srcMemoryType = CU_MEMORYTYPE_UNIFIED;
  home.srcDevice = two;
  home.srcPitch = pitch;
  home.srcY = 1;
  home.dstMemoryType = CU_MEMORYTYPE_HOST;
  home.dstHost = back.data();
  home.dstPitch = host_pitch;
  home.WidthInBytes = 200;
  home.Height = 70;
  EXPECT_CU(cuda.cuMemcpy2DUnaligned_v2(&home), CUDA_SUCCESS);
  bool same = true;
  for (std::size_t y = 0; y < 70; ++y) {
    for (std::size_t x = 0; x < 200; ++x) same &= back[y * host_pitch + x] == sent[(y + 2) * host_pitch + x + 18];
  }
  EXPECT_HOLDS(same);
  EXPECT_HOLDS(back[200] == 0);
  home.WidthInBytes = pitch + 1;
  EXPECT_CU(cuda.cuMemcpy2D_v2(&home), CUDA_ERROR_INVALID_VALUE);
  home.WidthInBytes = 0;
  EXPECT_CU(cuda.cuMemcpy2D_v2(&home), CUDA_SUCCESS);
}

// What a pinned buffer holds when the stream comes to the copy is what is copied.
void PinnedCopiesAreLate(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  CUstream stream = nullptr;
  NEED_CU(cuda.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  CUdeviceptr flag = probe.Memory(4);
  NEED_CU(cuda.cuMemsetD32_v2(flag, 0, 1));
  void* pinned = nullptr;
  NEED_CU(cuda.cuMemAllocHost_v2(&pinned, 100000));
  auto* bytes = static_cast<unsigned char*>(pinned);
  bytes[7] = 1;
  const CUdeviceptr memory = probe.Memory(100000);
  NEED_CU(cuda.cuCtxSynchronize());
  EXPECT_CU(probe.Launch(probe.Kernel("spin"), 1, {&flag}, stream), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemcpyHtoDAsync_v2(memory, pinned, 100000, stream), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
  bytes[7] = 2;
  CUstream other = nullptr;
  NEED_CU(cuda.cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
  EXPECT_CU(cuda.cuMemsetD32Async(flag, 1, 1, other), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuStreamSynchronize(stream), CUDA_SUCCESS);
  unsigned char back = 0;
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(&back, memory + 7, 1), CUDA_SUCCESS);
  EXPECT_HOLDS(back == 2);
}

void PeerCopiesGoFromDeviceToDevice(Probe& probe) {
  auto& cuda = probe.cuda;
  NEED_CU(cuda.cuInit(0));
  int count = 0;
  NEED_CU(cuda.cuDeviceGetCount(&count));
  if (count < 2) probe.NotSupported("there is one device only");
  CUcontext first = nullptr;
  CUcontext second = nullptr;
  NEED_CU(cuda.cuCtxCreate_v2(&first, 0, 0));
  const CUdeviceptr from = probe.Memory(100000);
  NEED_CU(cuda.cuMemsetD8_v2(from, 0x5a, 100000));
  NEED_CU(cuda.cuCtxCreate_v2(&second, 0, 1));
  const CUdeviceptr to = probe.Memory(100000);
  EXPECT_CU(cuda.cuMemcpyPeer(to, second, from, first, 100000), CUDA_SUCCESS);
  unsigned char back = 0;
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(&back, to + 99999, 1), CUDA_SUCCESS);
  EXPECT_HOLDS(back == 0x5a);
}

constexpr Claim kClaims[] = {
    {"CopiesBringBackWhatWasSent", "host to device to device to host, of all sizes", &CopiesBringBackWhatWasSent},
    {"CopiesBeyondTheEndAreRefused", "a copy or fill of one byte too many is INVALID_VALUE, not cut",
     &CopiesBeyondTheEndAreRefused},
    {"UnifiedCopiesFindTheirSides", "cuMemcpy tells host and device pointers apart", &UnifiedCopiesFindTheirSides},
    {"FillsHaveThreeWidths", "cuMemsetD8, D16, D32 fill units; addresses must be aligned to them",
     &FillsHaveThreeWidths},
    {"RowsAreFilled", "cuMemsetD2D* fill rows and leave the rest of the pitch", &RowsAreFilled},
    {"RectanglesAreCopied", "cuMemcpy2D copies rectangles between all sides; width is bounded by pitch",
     &RectanglesAreCopied},
    {"PinnedCopiesAreLate", "an asynchronous copy of pinned memory happens when the stream comes to it",
     &PinnedCopiesAreLate},
    {"PeerCopiesGoFromDeviceToDevice", "cuMemcpyPeer copies between two devices", &PeerCopiesGoFromDeviceToDevice},
};

}  // namespace

std::span<const Claim> CopyClaims() { return kClaims; }

}  // namespace conformance
