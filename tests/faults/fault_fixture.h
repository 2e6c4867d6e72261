// A node of the software GPU that misbehaves as real drivers do, jobs on it, and gpumig's backend over it.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "plugins/cuda/open_cuda.h"
#include "tests/plugins/softgpu/gpu_process.h"
#include "tests/plugins/softgpu/job.h"
#include "tests/plugins/softgpu/soft_node.h"
#include "tests/support/matchers.h"

namespace gpumig {

using softgpu_test::GpuProcess;
using softgpu_test::SoftNode;
using softgpu_test::TestUuid;

inline std::string DeviceSpec(int uuid, const std::string& more = "") {
  return "memory=64MiB,chip=Soft A,uuid=" + TestUuid(uuid) + more;
}

class FaultTest : public testing::Test {
 protected:
  void UseNode(std::vector<std::string> devices, std::vector<std::string> more = {}) {
    node_ = std::make_unique<SoftNode>(std::move(devices), std::move(more));
    setenv("SOFTGPU_SOCKET", node_->socket().c_str(), 1);
  }
  SoftNode& node() { return *node_; }

  // As gpumigd has it: the driver in a helper process.
  Result<std::unique_ptr<DevicePort>> OpenPort() {
    CudaOptions options;
    options.helper = GPU_HELPER;
    options.library = SOFTGPU_LIBRARY;
    return OpenCudaDevicePort(options);
  }

  std::unique_ptr<GpuProcess> StartJob(const std::string& visible = "") {
    auto job = std::make_unique<GpuProcess>(node_->socket(), &softgpu_test::RunJob, visible);
    Step(*job);
    return job;
  }
  static std::uint64_t Step(GpuProcess& job) {
    job.link().Send(1);
    return job.link().Receive();
  }
  // It runs, and does GPU work.
  static void ExpectRuns(DevicePort& port, GpuProcess& job) {
    const auto state = port.State(job.pid());
    ASSERT_THAT(state, IsOk());
    ASSERT_EQ(*state, GpuState::kRunning);
    EXPECT_NE(Step(job), 0U);
  }
  static void ExpectState(DevicePort& port, const GpuProcess& job, GpuState expected) {
    const auto state = port.State(job.pid());
    ASSERT_THAT(state, IsOk());
    EXPECT_EQ(GpuStateName(*state), GpuStateName(expected));
  }
  static std::vector<GpuPair> Map(std::vector<std::pair<int, int>> pairs) {
    std::vector<GpuPair> map;
    for (const auto& [from, to] : pairs) map.push_back({TestUuid(from), TestUuid(to), ""});
    return map;
  }

  std::unique_ptr<SoftNode> node_;
  // The driver as another program calls it, without cuInit.
  softgpu_test::Driver cuda_ = softgpu_test::OpenSoftDriver();
};

}  // namespace gpumig
