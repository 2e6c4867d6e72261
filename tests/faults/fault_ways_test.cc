// Each of the faults F1 to F16 of docs/software_gpu.md in each way it can be asked for: by a config file, by an option,
// by a command while the daemon runs, for all and for one process alone; and that it is gone when it is not asked for.
// What gpumig makes of them is in driver_faults_test.cc.
#include <fstream>
#include <functional>

#include "core/base/child_process.h"
#include "tests/faults/fault_fixture.h"
#include "tests/plugins/softgpu/stopped_threads.h"

namespace gpumig {
namespace {

using namespace cuda_abi;  // The driver's results read best in its own names.
using softgpu_test::Driver;
using softgpu_test::Link;
using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

constexpr int kSlowInitMs = 300;
constexpr int kShortMs = 200;    // For what must not happen.
constexpr int kLongMs = 60'000;  // For what must; it does not take that long.

constexpr std::uint64_t kTell = 1;

CUresult BeginCustomCheckpoint(Driver& cuda, pid_t pid) {
  CUcheckpointCustomStorageInfo* info = nullptr;
  CUcheckpointCheckpointArgs args{};
  args.customStorageInfo_out = &info;
  return cuda.cuCheckpointProcessCheckpoint(pid, &args);
}

// Comes up when told to, and says in how many milliseconds. Then, for kTell: the last byte of its first device's UUID
// and its bus; for the number of a process: what a custom checkpoint of that gives.
void RunSubject(Driver& cuda, Link& link) {
  link.Receive();
  const auto begin = steady_clock::now();
  CHECK_OK(cuda.cuInit(0));
  link.Send(static_cast<std::uint64_t>((steady_clock::now() - begin) / milliseconds(1)));
  CUcontext context = nullptr;
  CUdeviceptr memory = 0;
  int count = 0;
  CHECK_OK(cuda.cuDeviceGetCount(&count));
  for (int i = 0; i < count; ++i) CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&context, i));  // For custom storage.
  CHECK_OK(cuda.cuCtxSetCurrent(context));
  CHECK_OK(cuda.cuMemAlloc_v2(&memory, 4096));
  CHECK_OK(cuda.cuMemsetD8_v2(memory, 7, 4096));
  link.Send(0);
  while (const std::uint64_t word = link.Receive()) {
    if (word != kTell) {
      link.Send(static_cast<std::uint64_t>(BeginCustomCheckpoint(cuda, static_cast<pid_t>(word))));
      continue;
    }
    CUuuid uuid{};
    char bus_id[32] = {};
    CHECK_OK(cuda.cuDeviceGetUuid_v2(&uuid, 0));
    CHECK_OK(cuda.cuDeviceGetPCIBusId(bus_id, sizeof(bus_id), 0));
    link.Send(static_cast<std::uint64_t>(uuid.bytes[15]));
    link.Send(std::stoul(std::string(bus_id).substr(5, 2)));
  }
}

// Looks at one node whether it shows a fault. `is_expected` only says how long to wait for what.
class Observer {
 public:
  // `on_subject`, if it is one, is told the process that the fault is about before that calls the driver.
  Observer(const SoftNode& node, bool is_expected, std::function<void(pid_t)> on_subject)
      : is_expected_(is_expected), node_(node), on_subject_(std::move(on_subject)) {}

  bool is_expected() const { return is_expected_; }
  // The fault is there before any process is.
  bool is_expected_from_the_start() const { return is_expected_ && !on_subject_; }

  std::unique_ptr<GpuProcess> BeginSubject(const std::string& visible = "") {
    auto process = std::make_unique<GpuProcess>(node_.socket(), &RunSubject, visible);
    if (on_subject_) on_subject_(process->pid());
    process->link().Send(1);
    return process;
  }
  // The time that cuInit took, in milliseconds.
  static std::uint64_t WaitUntilUp(GpuProcess& process) {
    const std::uint64_t took_ms = process.link().Receive();
    process.link().Receive();
    return took_ms;
  }
  std::unique_ptr<GpuProcess> StartSubject(const std::string& visible = "") {
    auto process = BeginSubject(visible);
    WaitUntilUp(*process);
    return process;
  }
  // One that the fault is not about, where it is about one alone.
  std::unique_ptr<GpuProcess> StartOther() const {
    auto process = std::make_unique<GpuProcess>(node_.socket(), &RunSubject);
    process->link().Send(1);
    WaitUntilUp(*process);
    return process;
  }
  std::unique_ptr<GpuProcess> StartLocked(const std::string& visible = "") {
    auto process = StartSubject(visible);
    EXPECT_EQ(Lock(process->pid()), CUDA_SUCCESS);
    return process;
  }
  std::unique_ptr<GpuProcess> StartCheckpointed(const std::string& visible = "") {
    auto process = StartLocked(visible);
    EXPECT_EQ(Checkpoint(process->pid()), CUDA_SUCCESS);
    return process;
  }

  CUresult Lock(pid_t pid, int timeout_ms = kLongMs) {
    CUcheckpointLockArgs args{};
    args.timeoutMs = static_cast<unsigned>(timeout_ms);
    return cuda_.cuCheckpointProcessLock(pid, &args);
  }
  CUresult Checkpoint(pid_t pid) { return cuda_.cuCheckpointProcessCheckpoint(pid, nullptr); }
  CUresult Restore(pid_t pid, std::vector<std::pair<int, int>> map = {}) {
    std::vector<CUcheckpointGpuPair> pairs(map.size());
    for (std::size_t i = 0; i < map.size(); ++i) {
      pairs[i].oldUuid.bytes[15] = static_cast<char>(map[i].first);
      pairs[i].newUuid.bytes[15] = static_cast<char>(map[i].second);
    }
    CUcheckpointRestoreArgs args{};
    args.gpuPairs = pairs.data();
    args.gpuPairsCount = static_cast<unsigned>(pairs.size());
    return cuda_.cuCheckpointProcessRestore(pid, &args);
  }
  CUresult Unlock(pid_t pid) { return cuda_.cuCheckpointProcessUnlock(pid, nullptr); }
  CUprocessState State(pid_t pid) {
    CUprocessState state{};
    EXPECT_EQ(cuda_.cuCheckpointProcessGetState(pid, &state), CUDA_SUCCESS);
    return state;
  }
  pid_t RestoreThread(pid_t pid) {
    int tid = 0;
    EXPECT_EQ(cuda_.cuCheckpointProcessGetRestoreThreadId(pid, &tid), CUDA_SUCCESS);
    return tid;
  }

  // False: it worked. True: it failed in just this way.
  bool Fails(CUresult result, CUresult expected, pid_t pid, CUprocessState after) {
    if (result == CUDA_SUCCESS) return false;
    EXPECT_EQ(result, expected);
    EXPECT_EQ(State(pid), after);
    return true;
  }

 private:
  const bool is_expected_;
  const SoftNode& node_;
  const std::function<void(pid_t)> on_subject_;
  Driver cuda_ = softgpu_test::OpenSoftDriver();
};

bool ShowsF1(Observer& see) {
  const auto job = see.StartCheckpointed();
  if (!see.Fails(see.Restore(job->pid()), CUDA_ERROR_OUT_OF_MEMORY, job->pid(), CU_PROCESS_STATE_CHECKPOINTED)) {
    return false;
  }
  return see.Fails(see.Restore(job->pid()), CUDA_ERROR_OPERATING_SYSTEM, job->pid(), CU_PROCESS_STATE_CHECKPOINTED);
}

bool ShowsF2(Observer& see) {
  const auto job = see.StartLocked();
  return see.Fails(see.Checkpoint(job->pid()), CUDA_ERROR_NOT_SUPPORTED, job->pid(), CU_PROCESS_STATE_FAILED);
}

bool ShowsF3(Observer& see) {
  const auto job = see.StartCheckpointed("0");
  const bool shows =
      see.Fails(see.Restore(job->pid(), {{1, 1}}), CUDA_ERROR_INVALID_VALUE, job->pid(), CU_PROCESS_STATE_CHECKPOINTED);
  if (shows) {
    EXPECT_EQ(see.Restore(job->pid()), CUDA_SUCCESS);
  }
  return shows;
}

bool ShowsF4(Observer& see) {
  const auto other = see.StartOther();
  const auto job = see.StartSubject();
  EXPECT_EQ(see.Lock(other->pid()), CUDA_SUCCESS);
  const bool shows = see.Fails(see.Lock(job->pid(), see.is_expected() ? kShortMs : kLongMs), CUDA_ERROR_NOT_READY,
                               job->pid(), CU_PROCESS_STATE_RUNNING);
  if (shows) {
    EXPECT_EQ(see.Unlock(other->pid()), CUDA_SUCCESS);
    EXPECT_EQ(see.Lock(job->pid()), CUDA_SUCCESS);
  }
  return shows;
}

bool ShowsF5(Observer& see) {
  const auto job = see.StartCheckpointed();
  EXPECT_EQ(see.Restore(job->pid(), {{1, 2}, {2, 1}}), CUDA_SUCCESS);
  EXPECT_EQ(see.Unlock(job->pid()), CUDA_SUCCESS);
  job->link().Send(kTell);
  EXPECT_EQ(job->link().Receive(), 2U);
  const std::uint64_t bus = job->link().Receive();
  EXPECT_TRUE(bus == 11 || bus == 22) << bus;
  return bus == 11;
}

bool ShowsF6(Observer& see) {
  const auto job = see.StartLocked("0");
  return see.Fails(see.Checkpoint(job->pid()), CUDA_ERROR_OUT_OF_MEMORY, job->pid(), CU_PROCESS_STATE_LOCKED);
}

bool ShowsF7(Observer& see) {
  // Then there is nobody who could be locked, and it would take a minute to come back.
  if (see.is_expected_from_the_start()) return !see.BeginSubject()->link().HasArrived(kShortMs);
  const auto other = see.StartOther();
  const auto job = see.BeginSubject();
  if (job->link().HasArrived(see.is_expected() ? kShortMs : kLongMs)) {
    see.WaitUntilUp(*job);
    return false;
  }
  EXPECT_EQ(see.Lock(other->pid()), CUDA_SUCCESS);
  see.WaitUntilUp(*job);  // Without the lock it would come back only after a minute.
  return see.Fails(see.Checkpoint(job->pid()), CUDA_ERROR_ILLEGAL_STATE, job->pid(), CU_PROCESS_STATE_RUNNING);
}

bool ShowsF8(Observer& see) {
  const auto job = see.StartSubject();
  const pid_t tid = see.RestoreThread(job->pid());
  EXPECT_NE(tid, job->pid());
  return see.RestoreThread(tid) == tid && see.Lock(tid) == CUDA_SUCCESS && see.Checkpoint(tid) == CUDA_SUCCESS &&
         see.State(tid) == CU_PROCESS_STATE_CHECKPOINTED && see.Restore(tid) == CUDA_SUCCESS &&
         see.Unlock(tid) == CUDA_SUCCESS && see.State(job->pid()) == CU_PROCESS_STATE_RUNNING;
}

bool ShowsF9(Observer& see) {
  const auto job = see.BeginSubject();
  return see.WaitUntilUp(*job) >= static_cast<std::uint64_t>(see.is_expected() ? kSlowInitMs : kLongMs);
}

bool ShowsF10(Observer& see) {
  const auto job = see.StartCheckpointed();
  return see.Fails(see.Restore(job->pid()), CUDA_ERROR_OPERATING_SYSTEM, job->pid(), CU_PROCESS_STATE_CHECKPOINTED);
}

bool ShowsF11(Observer& see) { return ShowsF6(see); }

bool ShowsF12(Observer& see) {
  const auto job = see.StartLocked();
  const softgpu_test::StoppedThreads stopped(job->pid(), see.RestoreThread(job->pid()));
  return stopped.count() > 0 && see.Checkpoint(job->pid()) == CUDA_SUCCESS && see.Restore(job->pid()) == CUDA_SUCCESS &&
         see.Unlock(job->pid()) == CUDA_SUCCESS;
}

bool ShowsF13(Observer& see) {
  const auto job = see.StartSubject();
  return see.Fails(see.Lock(job->pid(), see.is_expected() ? kShortMs : kLongMs), CUDA_ERROR_NOT_READY, job->pid(),
                   CU_PROCESS_STATE_RUNNING);
}

bool ShowsF14(Observer& see) {
  const auto job = see.StartCheckpointed();
  EXPECT_EQ(see.Restore(job->pid(), {{1, 2}, {2, 1}}), CUDA_SUCCESS);
  EXPECT_EQ(see.Unlock(job->pid()), CUDA_SUCCESS);
  job->link().Send(kTell);
  const std::uint64_t uuid = job->link().Receive();
  job->link().Receive();
  EXPECT_TRUE(uuid == 1 || uuid == 2) << uuid;
  return uuid == 1;
}

bool ShowsF15(Observer& see) {
  const auto other = see.StartOther();
  const auto carrier = see.StartSubject();
  EXPECT_EQ(see.Lock(other->pid()), CUDA_SUCCESS);
  carrier->link().Send(static_cast<std::uint64_t>(other->pid()));
  const auto result = static_cast<CUresult>(carrier->link().Receive());
  return see.Fails(result, CUDA_ERROR_NOT_SUPPORTED, other->pid(), CU_PROCESS_STATE_LOCKED);
}

bool ShowsF16(Observer& see) {
  const auto job = see.StartLocked();
  return see.Fails(see.Checkpoint(job->pid()), CUDA_ERROR_NOT_SUPPORTED, job->pid(), CU_PROCESS_STATE_LOCKED);
}

struct Case {
  std::string name;
  bool (*shows)(Observer&);
  std::string value = "";         // As it is asked for where it must be seen,
  std::string hidden_value = "";  // and where it must not be.
  bool is_always = false;
};

class FaultWaysTest : public FaultTest, public testing::WithParamInterface<Case> {
 protected:
  FaultWaysTest() { unsetenv("CUDA_CHECKPOINT_JOB_FILE"); }

  static std::string Seen() { return GetParam().name + GetParam().value; }
  static std::string Hidden() { return GetParam().name + GetParam().hidden_value; }

  // Two devices, whose bus numbers are 11 and 22, unless they are one that is cut into two.
  static std::vector<std::string> Devices() {
    if (GetParam().name == "F6") return {DeviceSpec(1, ",mig=2")};
    return {DeviceSpec(1, ",pci=0000:11:00"), DeviceSpec(2, ",pci=0000:22:00")};
  }
  static std::vector<std::string> With(std::vector<std::string> more = {}) {
    more.insert(more.end(), {"--driver-version", "13040"});
    return more;
  }
  bool Shows(bool is_expected, std::function<void(pid_t)> on_subject = {}) {
    Observer observer(node(), is_expected, std::move(on_subject));
    return GetParam().shows(observer);
  }
};

TEST_P(FaultWaysTest, IsNotShownUnlessAskedFor) {
  UseNode(Devices(), With());
  EXPECT_EQ(Shows(GetParam().is_always), GetParam().is_always);
}

TEST_P(FaultWaysTest, IsShownWhereTheConfigFileNamesIt) {
  const std::string config = testing::TempDir() + "/softgpud-" + GetParam().name + std::to_string(getpid()) + ".conf";
  std::ofstream file(config);
  for (const std::string& device : Devices()) file << device << "\n";
  file << "driver-version 13040\nfault " << Seen() << "\n";
  file.close();
  UseNode({}, {"--config", config});
  std::filesystem::remove(config);
  EXPECT_EQ(node().Ctl("fault list"), Seen() + "\n");
  EXPECT_TRUE(Shows(true));
}

TEST_P(FaultWaysTest, IsShownWhereTheOptionNamesIt) {
  UseNode(Devices(), With({"--fault", Seen()}));
  EXPECT_TRUE(Shows(true));
}

TEST_P(FaultWaysTest, IsShownFromTheCommandUntilItIsClearedAgain) {
  UseNode(Devices(), With());
  EXPECT_TRUE(Shows(true, [&](pid_t) { EXPECT_EQ(node().Ctl("fault set " + Seen()), Seen() + "\n"); }));
  if (GetParam().is_always) {
    const auto output = RunCommand({SOFTGPU_DAEMON, "ctl", "--socket", node().socket(), "fault", "clear", Seen()},
                                   std::chrono::seconds(60));
    ASSERT_THAT(output, IsOk());
    EXPECT_EQ(output->status.code, 2);
    EXPECT_NE(output->standard_error.find("cannot be cleared: "), std::string::npos) << output->standard_error;
    EXPECT_TRUE(Shows(true));
    return;
  }
  EXPECT_EQ(node().Ctl("fault set " + Hidden()), Hidden() + "\n");
  EXPECT_EQ(node().Ctl("fault clear " + GetParam().name), "");
  EXPECT_FALSE(Shows(false));
}

TEST_P(FaultWaysTest, IsShownToOneProcessAlone) {
  UseNode(Devices(), With());
  EXPECT_TRUE(Shows(true, [&](pid_t pid) { node().Ctl("fault set " + Seen() + "@" + std::to_string(pid)); }));
  node().Ctl("fault clear-all");
  node().Ctl("fault set " + Hidden() + "@" + std::to_string(getpid()));
  EXPECT_EQ(Shows(GetParam().is_always), GetParam().is_always);
}

INSTANTIATE_TEST_SUITE_P(Fault, FaultWaysTest,
                         testing::Values(Case{"F1", &ShowsF1}, Case{"F2", &ShowsF2}, Case{"F3", &ShowsF3},
                                         Case{"F4", &ShowsF4}, Case{"F5", &ShowsF5}, Case{"F6", &ShowsF6},
                                         Case{"F7", &ShowsF7}, Case{"F8", &ShowsF8, "", "", true},
                                         Case{"F9", &ShowsF9, "=300", "=60000"}, Case{"F10", &ShowsF10},
                                         Case{"F11", &ShowsF11}, Case{"F12", &ShowsF12, "", "", true},
                                         Case{"F13", &ShowsF13}, Case{"F14", &ShowsF14}, Case{"F15", &ShowsF15},
                                         Case{"F16", &ShowsF16}),
                         [](const auto& fault) { return fault.param.name; });

}  // namespace
}  // namespace gpumig
