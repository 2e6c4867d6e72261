// What a claim about the CUDA driver is checked with.
//
// A claim uses nothing but the driver API, from its beginning: it runs in a process of its own, which has not called
// cuInit. What is not as claimed is noted, and the claim goes on where it can. It stops early where a call that it only
// needs fails, and where the driver says that it does not support what the claim is about.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "tests/plugins/softgpu/driver.h"

namespace conformance {

using namespace cuda_abi;  // Claims read best in the interface's own names.

// As exit codes of a claim's process.
enum class Verdict : int { kSame = 0, kDifferent = 1, kNotSupported = 2 };

class Probe {
 public:
  explicit Probe(softgpu_test::Driver& driver) : cuda(driver) {}

  // cuInit and the primary context of device 0, made current.
  CUcontext Begin();
  CUfunction Kernel(const char* name, CUmodule* module = nullptr);
  CUdeviceptr Memory(std::size_t bytes);
  // One thread per item, on `stream`.
  CUresult Launch(CUfunction function, unsigned items, std::vector<void*> parameters, CUstream stream = nullptr);

  void Expect(bool holds, const char* what, const char* file, int line);
  void ExpectResult(CUresult actual, CUresult expected, const char* call, const char* file, int line);
  // Ends the claim unless `actual` is SUCCESS.
  void Need(CUresult actual, const char* call, const char* file, int line);
  [[noreturn]] void NotSupported(const std::string& why);
  // Ends the process with what was found.
  [[noreturn]] void Finish();

  softgpu_test::Driver& cuda;

 private:
  bool different_ = false;
};

struct Claim {
  const char* name;
  const char* says;
  void (*body)(Probe&);
};

// A second process of a claim, made before the first has called cuInit, with a driver of its own. What it finds
// different the first one reports by Join().
class Partner {
 public:
  using Body = std::function<void(Probe&, Partner&)>;
  Partner(Probe& probe, const Body& body);
  void Send(const void* data, std::size_t bytes, int fd = -1);
  // The fd that came along; -1: none. A partner who has gone ends the process.
  int Receive(void* data, std::size_t bytes);
  void Join(Probe& probe);

 private:
  int socket_ = -1;
  int pid_ = -1;
};

// In groups, each of a file.
std::span<const Claim> DeviceClaims();
std::span<const Claim> ContextClaims();
std::span<const Claim> MemoryClaims();
std::span<const Claim> CopyClaims();
std::span<const Claim> MappingClaims();
std::span<const Claim> StreamClaims();
std::span<const Claim> ModuleClaims();
std::span<const Claim> CheckpointClaims();
std::vector<Claim> AllClaims();

// The driver under test: $GPUMIG_LIBCUDA. Functions that it lacks are null.
softgpu_test::Driver OpenDriver();
// In this process, which it ends.
[[noreturn]] void RunClaim(const Claim& claim);

}  // namespace conformance

#define EXPECT_HOLDS(condition) probe.Expect((condition), #condition, __FILE__, __LINE__)
#define EXPECT_CU(call, expected) probe.ExpectResult((call), (expected), #call, __FILE__, __LINE__)
#define NEED_CU(call) probe.Need((call), #call, __FILE__, __LINE__)
#define NEED_FUNCTION(name) (probe.cuda.name != nullptr ? void() : probe.NotSupported("the driver has no " #name))
