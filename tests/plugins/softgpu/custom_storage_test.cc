// Custom storage, as CUDA 13.4 has it: the last columns of the state table, and that every byte goes the way there and
// back.
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <vector>

#include "tests/plugins/softgpu/gpu_process.h"
#include "tests/plugins/softgpu/job.h"
#include "tests/plugins/softgpu/soft_node.h"
#include "tests/support/needs.h"

namespace softgpu_test {
namespace {

CUuuid ToDriver(int number) {
  CUuuid uuid{};
  uuid.bytes[15] = static_cast<char>(number);
  return uuid;
}

std::string Spec(int uuid) { return "memory=64MiB,chip=Soft A,uuid=" + TestUuid(uuid); }

const std::vector<std::string> kNewDriver = {"--driver-version", "13040"};

// A process of its own that carries another one's bytes: cuInit binds a process to one daemon.
struct Carrier {
  explicit Carrier(Driver& driver) : cuda(driver) {
    CHECK_OK(cuda.cuInit(0));
    int count = 0;
    CHECK_OK(cuda.cuDeviceGetCount(&count));
    CUcontext context = nullptr;
    for (int i = 0; i < count; ++i) CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&context, i));
    CHECK_OK(cuda.cuCtxSetCurrent(context));
  }

  CUresult BeginCheckpoint(pid_t pid) {
    CUcheckpointCheckpointArgs args{};
    args.customStorageInfo_out = &info;
    return cuda.cuCheckpointProcessCheckpoint(pid, &args);
  }
  CUresult BeginRestore(pid_t pid, std::vector<CUcheckpointGpuPair> pairs = {}) {
    CUcheckpointRestoreArgs args{};
    args.gpuPairs = pairs.data();
    args.gpuPairsCount = static_cast<unsigned>(pairs.size());
    args.customStorageInfo_out = &info;
    return cuda.cuCheckpointProcessRestore(pid, &args);
  }
  CUresult Complete() { return cuda.cuCheckpointOperationComplete(info->handle); }
  CUresult Restore(pid_t pid) { return cuda.cuCheckpointProcessRestore(pid, nullptr); }
  int State(pid_t pid) {
    CUprocessState state{};
    return cuda.cuCheckpointProcessGetState(pid, &state) == CUDA_SUCCESS ? static_cast<int>(state) : -1;
  }
  CUresult Lock(pid_t pid) {
    CUcheckpointLockArgs args{};
    args.timeoutMs = 60000;
    return cuda.cuCheckpointProcessLock(pid, &args);
  }
  // Everything but what state 4 and 5 allow.
  void ExpectAllRefused(pid_t pid) {
    const int state = State(pid);
    CUcheckpointCustomStorageInfo* kept = info;
    CHECK_RESULT(Lock(pid), CUDA_ERROR_ILLEGAL_STATE);
    CHECK_RESULT(cuda.cuCheckpointProcessCheckpoint(pid, nullptr), CUDA_ERROR_ILLEGAL_STATE);
    CHECK_RESULT(BeginCheckpoint(pid), CUDA_ERROR_ILLEGAL_STATE);
    CHECK_RESULT(Restore(pid), CUDA_ERROR_ILLEGAL_STATE);
    CHECK_RESULT(BeginRestore(pid), CUDA_ERROR_ILLEGAL_STATE);
    CHECK_RESULT(cuda.cuCheckpointProcessUnlock(pid, nullptr), CUDA_ERROR_ILLEGAL_STATE);
    int tid = 0;
    CHECK_OK(cuda.cuCheckpointProcessGetRestoreThreadId(pid, &tid));
    CHECK_THAT(State(pid) == state);
    info = kept;
  }
  std::vector<std::vector<char>> CopyOut() {
    std::vector<std::vector<char>> bytes;
    for (unsigned i = 0; i < info->deviceCount; ++i) {
      const CUcheckpointCustomStoragePerDeviceData& device = info->perDeviceData[i];
      bytes.emplace_back(device.size);
      CHECK_OK(cuda.cuMemcpyDtoHAsync_v2(bytes.back().data(), device.devPtr, device.size, device.stream));
      CHECK_OK(cuda.cuStreamSynchronize(device.stream));
    }
    return bytes;
  }
  void CopyIn(const std::vector<std::vector<char>>& bytes) {
    CHECK_THAT(bytes.size() == info->deviceCount);
    for (unsigned i = 0; i < info->deviceCount; ++i) {
      const CUcheckpointCustomStoragePerDeviceData& device = info->perDeviceData[i];
      CHECK_THAT(bytes[i].size() == device.size);
      // Not waited for: that is what Complete() does.
      CHECK_OK(cuda.cuMemcpyHtoDAsync_v2(device.devPtr, bytes[i].data(), device.size, device.stream));
    }
  }

  Driver& cuda;
  CUcheckpointCustomStorageInfo* info = nullptr;
};

class CustomStorageTest : public testing::Test {
 protected:
  static std::uint64_t StepOf(GpuProcess& process) {
    process.link().Send(1);
    return process.link().Receive();
  }
  // Runs `body` in a process of its own; the test fails with it.
  static void Carry(const SoftNode& node, const GpuProcess::Body& body) {
    GpuProcess carrier(node.socket(), body);
    EXPECT_EQ(carrier.Wait(), 0);
  }
};

TEST_F(CustomStorageTest, AJobGoesOutAndComesBackThroughTheCallersGpus) {
  const std::vector<std::uint64_t> expected = UndisturbedTrace(6, 2);
  SoftNode node({Spec(1), Spec(2), Spec(3)}, kNewDriver);
  GpuProcess job(node.socket(), &RunJob, "0,1");
  std::vector<std::uint64_t> trace;
  for (int i = 0; i < 3; ++i) trace.push_back(StepOf(job));
  const pid_t pid = job.pid();
  const std::int64_t used = node.used_bytes();
  Carry(node, [&](Driver& cuda, Link&) {
    Carrier carrier(cuda);
    CHECK_OK(carrier.Lock(pid));
    CHECK_OK(carrier.BeginCheckpoint(pid));
    CHECK_THAT(carrier.State(pid) == CU_PROCESS_STATE_CHECKPOINTING);
    CHECK_THAT(carrier.info->deviceCount == 2);
    CHECK_THAT(carrier.info->perDeviceData[0].size >= kJobItems * 4);
    carrier.ExpectAllRefused(pid);
    const auto bytes = carrier.CopyOut();
    CHECK_OK(carrier.Complete());
    CHECK_THAT(carrier.State(pid) == CU_PROCESS_STATE_CHECKPOINTED);
    // Its bytes are not in it.
    CHECK_RESULT(carrier.Restore(pid), CUDA_ERROR_INVALID_VALUE);
    CHECK_THAT(carrier.State(pid) == CU_PROCESS_STATE_CHECKPOINTED);
    // Onto other devices, in another order.
    const std::vector<CUcheckpointGpuPair> pairs = {{ToDriver(1), ToDriver(3)}, {ToDriver(2), ToDriver(1)}};
    CHECK_OK(carrier.BeginRestore(pid, pairs));
    CHECK_THAT(carrier.State(pid) == CU_PROCESS_STATE_RESTORING);
    carrier.ExpectAllRefused(pid);
    carrier.CopyIn(bytes);
    CHECK_OK(carrier.Complete());
    CHECK_THAT(carrier.State(pid) == CU_PROCESS_STATE_LOCKED);
    CHECK_OK(cuda.cuCheckpointProcessUnlock(pid, nullptr));
  });
  EXPECT_EQ(node.used_bytes(), used);
  for (int i = 0; i < 3; ++i) trace.push_back(StepOf(job));
  EXPECT_EQ(trace, expected);
}

// Where the host path would hold all of it.
TEST_F(CustomStorageTest, LeavesNoDeviceMemoryInTheProcess) {
  SoftNode node({Spec(1)}, kNewDriver);
  GpuProcess job(node.socket(), &RunJob);
  StepOf(job);
  const pid_t pid = job.pid();
  const auto anonymous = [&] {
    std::ifstream rollup("/proc/" + std::to_string(pid) + "/smaps_rollup");
    std::int64_t bytes = 0;
    for (std::string line; std::getline(rollup, line);) {
      if (line.starts_with("Anonymous:")) bytes += std::stoll(line.substr(10)) * 1024;
    }
    return bytes;
  };
  const std::int64_t before = anonymous();
  Carry(node, [&](Driver& cuda, Link&) {
    Carrier carrier(cuda);
    CHECK_OK(carrier.Lock(pid));
    CHECK_OK(carrier.BeginCheckpoint(pid));
    CHECK_OK(carrier.Complete());
  });
  EXPECT_LT(anonymous(), before + kJobItems);  // It has four times as much on the device.
  EXPECT_EQ(node.used_bytes(), 0);
}

// A view is device memory like any other, for kernels and copies on the device too.
TEST_F(CustomStorageTest, AViewCanBeCopiedOnTheDevice) {
  SoftNode node({Spec(1)}, kNewDriver);
  GpuProcess job(node.socket(), &RunJob);
  StepOf(job);
  const pid_t pid = job.pid();
  Carry(node, [&](Driver& cuda, Link&) {
    Carrier carrier(cuda);
    CHECK_OK(carrier.Lock(pid));
    CHECK_OK(carrier.BeginCheckpoint(pid));
    const auto bytes = carrier.CopyOut();
    const CUcheckpointCustomStoragePerDeviceData& view = carrier.info->perDeviceData[0];
    CUdeviceptr own = 0;
    CHECK_OK(cuda.cuMemAlloc_v2(&own, view.size));
    CHECK_OK(cuda.cuMemcpyDtoD_v2(own, view.devPtr, view.size));
    std::vector<char> back(view.size);
    CHECK_OK(cuda.cuMemcpyDtoH_v2(back.data(), own, view.size));
    CHECK_THAT(back == bytes[0]);
    // Not beyond its end.
    CHECK_RESULT(cuda.cuMemcpyDtoH_v2(back.data(), view.devPtr + 1, view.size), CUDA_ERROR_INVALID_VALUE);
    const CUdeviceptr gone = view.devPtr;
    CHECK_OK(carrier.Complete());
    CHECK_RESULT(cuda.cuMemcpyDtoH_v2(back.data(), gone, 100), CUDA_ERROR_INVALID_VALUE);
  });
}

TEST_F(CustomStorageTest, IsReservedBytesToAnOlderDriver) {
  SoftNode node({Spec(1)});
  GpuProcess job(node.socket(), &RunJob);
  StepOf(job);
  const pid_t pid = job.pid();
  Carry(node, [&](Driver& cuda, Link&) {
    Carrier carrier(cuda);
    int version = 0;
    CHECK_OK(cuda.cuDriverGetVersion(&version));
    CHECK_THAT(version == 13000);
    void* function = nullptr;
    CUdriverProcAddressQueryResult found{};
    CHECK_RESULT(cuda.cuGetProcAddress_v2("cuCheckpointOperationComplete", &function, 13040, 0, &found),
                 CUDA_ERROR_INVALID_VALUE);
    CHECK_OK(carrier.Lock(pid));
    CHECK_RESULT(carrier.BeginCheckpoint(pid), CUDA_ERROR_INVALID_VALUE);
    CHECK_RESULT(cuda.cuCheckpointOperationComplete(nullptr), CUDA_ERROR_NOT_SUPPORTED);
    CHECK_THAT(carrier.State(pid) == CU_PROCESS_STATE_LOCKED);
    CHECK_OK(cuda.cuCheckpointProcessCheckpoint(pid, nullptr));
    CHECK_RESULT(carrier.BeginRestore(pid), CUDA_ERROR_INVALID_VALUE);
    CHECK_THAT(carrier.State(pid) == CU_PROCESS_STATE_CHECKPOINTED);
  });
}

TEST_F(CustomStorageTest, ANewerDriverSaysSoAndIsFoundByItsVersion) {
  SoftNode node({Spec(1)}, kNewDriver);
  Carry(node, [&](Driver& cuda, Link&) {
    int version = 0;
    CHECK_OK(cuda.cuDriverGetVersion(&version));  // Before cuInit, too.
    CHECK_THAT(version == 13040);
    CHECK_OK(cuda.cuInit(0));
    void* function = nullptr;
    CUdriverProcAddressQueryResult found{};
    CHECK_OK(cuda.cuGetProcAddress_v2("cuCheckpointOperationComplete", &function, 13040, 0, &found));
    CHECK_THAT(found == CU_GET_PROC_ADDRESS_SUCCESS && function != nullptr);
    CHECK_OK(cuda.cuGetProcAddress_v2("cuCheckpointOperationComplete", &function, 13000, 0, &found));
    CHECK_THAT(found == CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
  });
}

TEST_F(CustomStorageTest, RefusesInEveryStateButItsOwn) {
  SoftNode node({Spec(1)}, kNewDriver);
  GpuProcess job(node.socket(), &RunJob);
  StepOf(job);
  const pid_t pid = job.pid();
  Carry(node, [&](Driver& cuda, Link&) {
    Carrier carrier(cuda);
    CHECK_RESULT(carrier.BeginCheckpoint(getppid()), CUDA_ERROR_NOT_INITIALIZED);
    CHECK_RESULT(carrier.BeginCheckpoint(0), CUDA_ERROR_INVALID_VALUE);
    CHECK_RESULT(carrier.BeginCheckpoint(pid), CUDA_ERROR_ILLEGAL_STATE);  // RUNNING
    CHECK_RESULT(carrier.BeginRestore(pid), CUDA_ERROR_ILLEGAL_STATE);
    CHECK_OK(carrier.Lock(pid));
    CHECK_RESULT(carrier.BeginRestore(pid), CUDA_ERROR_ILLEGAL_STATE);  // LOCKED
    CHECK_OK(carrier.BeginCheckpoint(pid));
    CHECK_OK(carrier.Complete());
    CHECK_RESULT(carrier.BeginCheckpoint(pid), CUDA_ERROR_ILLEGAL_STATE);  // CHECKPOINTED
    CHECK_RESULT(cuda.cuCheckpointOperationComplete(nullptr), CUDA_ERROR_INVALID_HANDLE);
    // A map that leaves out the device, or names one that is not here, changes nothing.
    CHECK_RESULT(carrier.BeginRestore(pid, {{ToDriver(7), ToDriver(1)}}), CUDA_ERROR_INVALID_VALUE);
    CHECK_RESULT(carrier.BeginRestore(pid, {{ToDriver(1), ToDriver(9)}}), CUDA_ERROR_INVALID_DEVICE);
    CHECK_THAT(carrier.State(pid) == CU_PROCESS_STATE_CHECKPOINTED);
  });
}

TEST_F(CustomStorageTest, NeedsAContextOnEachGpuOfTheProcess) {
  SoftNode node({Spec(1), Spec(2)}, kNewDriver);
  GpuProcess job(node.socket(), &RunJob);
  StepOf(job);
  const pid_t pid = job.pid();
  const auto refused = [&](CUresult expected) {
    return [pid, expected](Driver& cuda, Link&) {
      CUcheckpointCustomStorageInfo* info = nullptr;
      CUcheckpointCheckpointArgs args{};
      args.customStorageInfo_out = &info;
      CHECK_RESULT(cuda.cuCheckpointProcessCheckpoint(pid, &args), CUDA_ERROR_NOT_INITIALIZED);
      CHECK_OK(cuda.cuInit(0));
      CUcontext context = nullptr;
      CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&context, 0));
      CHECK_THAT(cuda.cuCheckpointProcessCheckpoint(pid, &args) == expected);
      CUprocessState state{};
      CHECK_OK(cuda.cuCheckpointProcessGetState(pid, &state));
      CHECK_THAT(state == CU_PROCESS_STATE_LOCKED);
    };
  };
  Carry(node, [&](Driver& cuda, Link&) { CHECK_OK(cuda.cuCheckpointProcessLock(pid, nullptr)); });
  Carry(node, refused(CUDA_ERROR_INVALID_CONTEXT));
  GpuProcess blind(node.socket(), refused(CUDA_ERROR_INVALID_DEVICE), "0");
  EXPECT_EQ(blind.Wait(), 0);
}

TEST_F(CustomStorageTest, NeedsTheCapabilityToTraceOthers) {
  GPUMIG_NEEDS_ROOT();
  SoftNode node({Spec(1)}, kNewDriver);
  GpuProcess job(node.socket(), &RunJob);
  StepOf(job);
  const pid_t pid = job.pid();
  Carry(node, [&](Driver& cuda, Link&) {
    Carrier carrier(cuda);
    CHECK_OK(carrier.Lock(pid));
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2]{};
    CHECK_THAT(syscall(SYS_capget, &header, data) == 0);
    data[0].effective &= ~(1U << CAP_SYS_PTRACE);
    CHECK_THAT(syscall(SYS_capset, &header, data) == 0);
    CHECK_RESULT(carrier.BeginCheckpoint(pid), CUDA_ERROR_OPERATING_SYSTEM);
    data[0].effective |= 1U << CAP_SYS_PTRACE;
    CHECK_THAT(syscall(SYS_capset, &header, data) == 0);
    CHECK_THAT(carrier.State(pid) == CU_PROCESS_STATE_LOCKED);
  });
}

// There is no way back from a prepared operation: who dies in one takes the process along.
TEST_F(CustomStorageTest, ACarrierThatDiesLeavesTheProcessWhereItIs) {
  SoftNode node({Spec(1)}, kNewDriver);
  GpuProcess job(node.socket(), &RunJob);
  StepOf(job);
  const pid_t pid = job.pid();
  Carry(node, [&](Driver& cuda, Link&) {
    Carrier carrier(cuda);
    CHECK_OK(carrier.Lock(pid));
    CHECK_OK(carrier.BeginCheckpoint(pid));
  });
  Carry(node, [&](Driver& cuda, Link&) {
    Carrier carrier(cuda);
    CHECK_THAT(carrier.State(pid) == CU_PROCESS_STATE_CHECKPOINTING);
    carrier.ExpectAllRefused(pid);
  });
}

TEST_F(CustomStorageTest, AProcessThatDiesMeanwhileIsAnErrorOfTheOperatingSystem) {
  SoftNode node({Spec(1)}, kNewDriver);
  GpuProcess job(node.socket(), &RunJob);
  StepOf(job);
  const pid_t pid = job.pid();
  GpuProcess carrier_process(node.socket(), [pid](Driver& cuda, Link& link) {
    Carrier carrier(cuda);
    CHECK_OK(carrier.Lock(pid));
    CHECK_OK(carrier.BeginCheckpoint(pid));
    link.Send(1);
    link.Receive();
    const auto bytes = carrier.CopyOut();  // The view stays.
    CHECK_RESULT(carrier.Complete(), CUDA_ERROR_OPERATING_SYSTEM);
  });
  carrier_process.link().Receive();
  job.Kill();
  carrier_process.link().Send(1);
  EXPECT_EQ(carrier_process.Wait(), 0);
  EXPECT_TRUE(node.WaitUntilUnused());
}

}  // namespace
}  // namespace softgpu_test
