// Faults F1 to F16 of docs/software_gpu.md: that the software GPU shows each as real drivers do, and that gpumig
// answers with a clear error and a job that runs on, or says that it is lost.
#include <signal.h>

#include <fstream>

#include "tests/faults/fault_fixture.h"

namespace gpumig {
namespace {

using namespace cuda_abi;  // The driver's results read best in its own names.
using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

class DriverFaultsTest : public FaultTest {
 protected:
  CUresult Lock(pid_t pid, unsigned timeout_ms = 60000) {
    CUcheckpointLockArgs args{};
    args.timeoutMs = timeout_ms;
    return cuda_.cuCheckpointProcessLock(pid, &args);
  }
  CUresult Checkpoint(pid_t pid) { return cuda_.cuCheckpointProcessCheckpoint(pid, nullptr); }
  CUresult Restore(pid_t pid, std::vector<CUcheckpointGpuPair> pairs = {}) {
    CUcheckpointRestoreArgs args{};
    args.gpuPairs = pairs.data();
    args.gpuPairsCount = static_cast<unsigned>(pairs.size());
    return cuda_.cuCheckpointProcessRestore(pid, &args);
  }
  CUresult Unlock(pid_t pid) { return cuda_.cuCheckpointProcessUnlock(pid, nullptr); }
  CUprocessState DriverState(pid_t pid) {
    CUprocessState state{};
    EXPECT_EQ(cuda_.cuCheckpointProcessGetState(pid, &state), CUDA_SUCCESS);
    return state;
  }
  static CUuuid ToDriver(int number) {
    CUuuid uuid{};
    uuid.bytes[15] = static_cast<char>(number);
    return uuid;
  }
  static CUcheckpointGpuPair Pair(int from, int to) { return {ToDriver(from), ToDriver(to)}; }

  std::unique_ptr<DevicePort> Port() {
    auto port = OpenPort();
    EXPECT_THAT(port, IsOk());
    return port ? std::move(*port) : nullptr;
  }
};

TEST_F(DriverFaultsTest, F1ARestoreThatRanOutOfMemoryFailsForEver) {
  UseNode({DeviceSpec(1)});
  auto job = StartJob();
  ASSERT_EQ(Lock(job->pid()), CUDA_SUCCESS);
  ASSERT_EQ(Checkpoint(job->pid()), CUDA_SUCCESS);
  node().Ctl("fault set F1");
  EXPECT_EQ(Restore(job->pid()), CUDA_ERROR_OUT_OF_MEMORY);
  node().Ctl("fault clear F1");
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Restore(job->pid()), CUDA_ERROR_OPERATING_SYSTEM);
  EXPECT_EQ(DriverState(job->pid()), CU_PROCESS_STATE_CHECKPOINTED);
}

TEST_F(DriverFaultsTest, F1IsFirstOutOfMemoryAndThenReportedAsLost) {
  UseNode({DeviceSpec(1)});
  const auto port = Port();
  auto job = StartJob();
  const std::array processes{job->pid()};
  ASSERT_THAT(port->Lock(processes, seconds(60)), IsOk());
  ASSERT_THAT(port->Checkpoint(processes), IsOk());
  node().Ctl("fault set F1");
  EXPECT_THAT(port->Restore(processes, Map({{1, 1}})), FailsWith(ErrorCode::kResourceExhausted, "out of GPU memory"));
  node().Ctl("fault clear F1");
  EXPECT_THAT(port->Restore(processes, Map({{1, 1}})), FailsWith(ErrorCode::kLost, "after one that ran out"));
}

TEST_F(DriverFaultsTest, F2AnUnsupportedObjectFailsTheProcessAndIsReportedAsLost) {
  UseNode({DeviceSpec(1)});
  const auto port = Port();
  auto driven = StartJob();
  node().Ctl("fault set F2");
  ASSERT_EQ(Lock(driven->pid()), CUDA_SUCCESS);
  EXPECT_EQ(Checkpoint(driven->pid()), CUDA_ERROR_NOT_SUPPORTED);
  EXPECT_EQ(DriverState(driven->pid()), CU_PROCESS_STATE_FAILED);
  EXPECT_EQ(Unlock(driven->pid()), CUDA_ERROR_ILLEGAL_STATE);

  auto job = StartJob();
  const std::array processes{job->pid()};
  ASSERT_THAT(port->Lock(processes, seconds(60)), IsOk());
  EXPECT_THAT(port->Checkpoint(processes), FailsWith(ErrorCode::kLost, "the driver gave its GPU state up"));
  EXPECT_THAT(port->Unlock(processes), FailsWith(ErrorCode::kLost, "given its GPU state up"));
}

TEST_F(DriverFaultsTest, F3AMapForAProcessThatHidesGpusIsRefusedAlsoWhereNothingMoves) {
  UseNode({DeviceSpec(1), DeviceSpec(2)}, {"--fault", "F3"});
  auto job = StartJob("0");
  ASSERT_EQ(Lock(job->pid()), CUDA_SUCCESS);
  ASSERT_EQ(Checkpoint(job->pid()), CUDA_SUCCESS);
  EXPECT_EQ(Restore(job->pid(), {Pair(1, 1)}), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(Restore(job->pid(), {Pair(1, 1), Pair(2, 2)}), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(Restore(job->pid()), CUDA_SUCCESS);
  EXPECT_EQ(Unlock(job->pid()), CUDA_SUCCESS);
  EXPECT_NE(Step(*job), 0U);
}

TEST_F(DriverFaultsTest, F3CannotMoveAndIsRestoredInPlaceAllTheSame) {
  UseNode({DeviceSpec(1), DeviceSpec(2)}, {"--fault", "F3"});
  const auto port = Port();
  auto job = StartJob("0");
  const std::array processes{job->pid()};
  ASSERT_THAT(port->Lock(processes, seconds(60)), IsOk());
  ASSERT_THAT(port->Checkpoint(processes), IsOk());
  EXPECT_THAT(port->Restore(processes, Map({{1, 2}, {2, 1}})),
              FailsWith(ErrorCode::kInvalidArgument, "every GPU that the process saw"));
  ExpectState(*port, *job, GpuState::kCheckpointed);
  ASSERT_THAT(port->Restore(processes, Map({{1, 1}, {2, 2}})), IsOk());
  ASSERT_THAT(port->Unlock(processes), IsOk());
  ExpectRuns(*port, *job);
}

TEST_F(DriverFaultsTest, F4ALockHangsWhileAnotherProcessIsLockedAndAllAreLetGo) {
  UseNode({DeviceSpec(1)}, {"--fault", "F4"});
  const auto port = Port();
  auto a = StartJob();
  auto b = StartJob();
  ASSERT_EQ(Lock(a->pid()), CUDA_SUCCESS);
  EXPECT_EQ(Lock(b->pid(), 200), CUDA_ERROR_NOT_READY);
  ASSERT_EQ(Unlock(a->pid()), CUDA_SUCCESS);
  EXPECT_EQ(Lock(b->pid()), CUDA_SUCCESS);
  ASSERT_EQ(Unlock(b->pid()), CUDA_SUCCESS);

  EXPECT_THAT(port->Lock(std::array{a->pid(), b->pid()}, milliseconds(500)),
              FailsWith(ErrorCode::kDeadlineExceeded, "did not come to rest"));
  ExpectRuns(*port, *a);
  ExpectRuns(*port, *b);
}

TEST_F(DriverFaultsTest, F5AMovedProcessKeepsTheBusIdOfItsOldGpuAndGpumigGoesByUuids) {
  UseNode({DeviceSpec(1, ",pci=0000:11:00"), DeviceSpec(2, ",pci=0000:22:00")}, {"--fault", "F5"});
  const auto port = Port();
  GpuProcess job(node().socket(), [](softgpu_test::Driver& cuda, softgpu_test::Link& link) {
    CHECK_OK(cuda.cuInit(0));
    while (link.Receive() != 0) {
      char bus_id[32] = {};
      CUuuid uuid{};
      CHECK_OK(cuda.cuDeviceGetPCIBusId(bus_id, sizeof(bus_id), 0));
      CHECK_OK(cuda.cuDeviceGetUuid_v2(&uuid, 0));
      link.Send(static_cast<std::uint64_t>(std::string(bus_id).starts_with("0000:11") ? 11 : 22));
      link.Send(static_cast<std::uint64_t>(uuid.bytes[15]));
    }
  });
  job.link().Send(1);
  EXPECT_EQ(job.link().Receive(), 11U);
  EXPECT_EQ(job.link().Receive(), 1U);
  const std::array processes{job.pid()};
  const auto move = [&](std::vector<GpuPair> map) {
    ASSERT_THAT(port->Lock(processes, seconds(60)), IsOk());
    ASSERT_THAT(port->Checkpoint(processes), IsOk());
    ASSERT_THAT(port->Restore(processes, map), IsOk());
    ASSERT_THAT(port->Unlock(processes), IsOk());
  };
  move(Map({{1, 2}, {2, 1}}));
  job.link().Send(1);
  EXPECT_EQ(job.link().Receive(), 11U);  // Stale.
  EXPECT_EQ(job.link().Receive(), 2U);
  // A second move starts from where it is, not from where its bus id says.
  move(Map({{2, 1}, {1, 2}}));
  job.link().Send(1);
  EXPECT_EQ(job.link().Receive(), 11U);
  EXPECT_EQ(job.link().Receive(), 1U);
}

TEST_F(DriverFaultsTest, F6APartitionCannotBeCapturedAndTheMessageNamesMig) {
  UseNode({DeviceSpec(1, ",mig=2")}, {"--fault", "F6"});
  const auto port = Port();
  auto job = StartJob("0");
  const std::array processes{job->pid()};
  ASSERT_THAT(port->Lock(processes, seconds(60)), IsOk());
  EXPECT_EQ(Checkpoint(job->pid()), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_THAT(port->Checkpoint(processes), FailsWith(ErrorCode::kResourceExhausted, "MIG"));
  ExpectState(*port, *job, GpuState::kLocked);
  ASSERT_THAT(port->Unlock(processes), IsOk());
  ExpectRuns(*port, *job);
}

TEST_F(DriverFaultsTest, PartitionsAreGpusOfTheirOwn) {
  UseNode({DeviceSpec(1, ",mig=2")});
  const auto port = Port();
  const auto gpus = port->Gpus();
  ASSERT_THAT(gpus, IsOk());
  ASSERT_EQ(gpus->size(), 2U);
  EXPECT_EQ((*gpus)[0].chip, "Soft A MIG 3g.32mb");
  EXPECT_EQ((*gpus)[0].total_bytes, std::uint64_t{32} << 20);
  auto job = StartJob("0");
  const std::array processes{job->pid()};
  ASSERT_THAT(port->Lock(processes, seconds(60)), IsOk());
  ASSERT_THAT(port->Checkpoint(processes), IsOk());
  const std::vector<GpuPair> map = {{(*gpus)[0].uuid, (*gpus)[1].uuid, ""}, {(*gpus)[1].uuid, (*gpus)[0].uuid, ""}};
  ASSERT_THAT(port->Restore(processes, map), IsOk());
  ASSERT_THAT(port->Unlock(processes), IsOk());
  ExpectRuns(*port, *job);
}

TEST_F(DriverFaultsTest, F7AProcessThatComesUpBetweenLockAndFreezeIsFoundAndNothingIsCaptured) {
  UseNode({DeviceSpec(1)});
  const auto port = Port();
  auto a = StartJob();
  node().Ctl("fault set F7");
  GpuProcess b(node().socket(), &softgpu_test::RunJob);
  // Its cuInit does not come back yet, so that nobody sees it.
  EXPECT_FALSE(b.link().HasArrived(100));
  ExpectState(*port, b, GpuState::kNone);
  ASSERT_THAT(port->Lock(std::array{a->pid()}, seconds(60)), IsOk());
  const auto deadline = steady_clock::now() + seconds(60);
  while (*port->State(b.pid()) == GpuState::kNone && steady_clock::now() < deadline) usleep(10'000);
  EXPECT_EQ(Checkpoint(b.pid()), CUDA_ERROR_ILLEGAL_STATE);
  EXPECT_THAT(port->Checkpoint(std::array{a->pid(), b.pid()}),
              FailsWith(ErrorCode::kFailedPrecondition, "its GPU state is running, and must be locked"));
  ExpectState(*port, *a, GpuState::kLocked);
  ASSERT_THAT(port->Unlock(std::array{a->pid()}), IsOk());
  ExpectRuns(*port, *a);
  ExpectRuns(*port, b);
}

TEST_F(DriverFaultsTest, F9AnInitThatTakesLongIsPaidForOnceByTheHelper) {
  UseNode({DeviceSpec(1)});
  auto job = StartJob();
  node().Ctl("fault set F9=800");
  auto begin = steady_clock::now();
  const auto port = Port();
  EXPECT_GE(steady_clock::now() - begin, milliseconds(800));
  node().Ctl("fault set F9=60000");
  begin = steady_clock::now();
  for (int i = 0; i < 10; ++i) {
    ExpectState(*port, *job, GpuState::kRunning);
    EXPECT_THAT(port->Gpus(), IsOk());
  }
  EXPECT_LT(steady_clock::now() - begin, seconds(60));  // As long as one of them would take.
}

TEST_F(DriverFaultsTest, F10WithoutPersistenceARestoreNeedsSomebodyWhoHoldsTheGpuOpen) {
  UseNode({DeviceSpec(1)}, {"--fault", "F10"});
  auto job = StartJob();
  const std::array processes{job->pid()};
  ASSERT_EQ(Lock(job->pid()), CUDA_SUCCESS);
  ASSERT_EQ(Checkpoint(job->pid()), CUDA_SUCCESS);
  EXPECT_EQ(Restore(job->pid()), CUDA_ERROR_OPERATING_SYSTEM);
  EXPECT_EQ(DriverState(job->pid()), CU_PROCESS_STATE_CHECKPOINTED);
  // The helper does.
  const auto port = Port();
  ASSERT_THAT(port->Restore(processes, Map({{1, 1}})), IsOk());
  ASSERT_THAT(port->Unlock(processes), IsOk());
  ExpectRuns(*port, *job);
}

TEST_F(DriverFaultsTest, F11WithoutHostMemoryNothingIsCapturedAndTheJobRunsOn) {
  UseNode({DeviceSpec(1)}, {"--fault", "F11"});
  const auto port = Port();
  auto job = StartJob();
  const std::array processes{job->pid()};
  ASSERT_THAT(port->Lock(processes, seconds(60)), IsOk());
  EXPECT_EQ(Checkpoint(job->pid()), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(DriverState(job->pid()), CU_PROCESS_STATE_LOCKED);
  EXPECT_THAT(port->Checkpoint(processes), FailsWith(ErrorCode::kResourceExhausted, "host memory"));
  ASSERT_THAT(port->Unlock(processes), IsOk());
  ExpectRuns(*port, *job);
}

TEST_F(DriverFaultsTest, F13ALockThatNeverDrainsTimesOutAndTheJobRunsOn) {
  UseNode({DeviceSpec(1)});
  const auto port = Port();
  auto job = StartJob();
  auto other = StartJob();
  node().Ctl("fault set F13@" + std::to_string(job->pid()));
  EXPECT_EQ(Lock(job->pid(), 200), CUDA_ERROR_NOT_READY);
  EXPECT_EQ(DriverState(job->pid()), CU_PROCESS_STATE_RUNNING);
  EXPECT_THAT(port->Lock(std::array{job->pid(), other->pid()}, milliseconds(400)),
              FailsWith(ErrorCode::kDeadlineExceeded, std::to_string(job->pid())));
  ExpectRuns(*port, *job);
  ExpectRuns(*port, *other);
}

TEST_F(DriverFaultsTest, F14ADriverThatIgnoresTheMapIsFoundOutAndTheJobIsTakenBack) {
  UseNode({DeviceSpec(1), DeviceSpec(2)});
  const auto port = Port();
  auto job = StartJob();
  const std::array processes{job->pid()};
  ASSERT_THAT(port->Lock(processes, seconds(60)), IsOk());
  ASSERT_THAT(port->Checkpoint(processes), IsOk());
  node().Ctl("fault set F14");
  EXPECT_THAT(port->Restore(processes, Map({{1, 2}, {2, 1}})),
              FailsWith(ErrorCode::kInternal, "the driver ignored the map"));
  ExpectState(*port, *job, GpuState::kCheckpointed);
  node().Ctl("fault clear F14");
  ASSERT_THAT(port->Restore(processes, Map({{1, 2}, {2, 1}})), IsOk());
  ASSERT_THAT(port->Unlock(processes), IsOk());
  ExpectRuns(*port, *job);
}

TEST_F(DriverFaultsTest, F15WithoutCustomStorageTheHostPathStillWorks) {
  UseNode({DeviceSpec(1)}, {"--driver-version", "13040", "--fault", "F15"});
  const auto port = Port();
  auto job = StartJob();
  const std::array processes{job->pid()};
  ASSERT_THAT(port->Lock(processes, seconds(60)), IsOk());
  GpuProcess carrier(node().socket(), [pid = job->pid()](softgpu_test::Driver& cuda, softgpu_test::Link&) {
    CHECK_OK(cuda.cuInit(0));
    CUcontext context = nullptr;
    CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&context, 0));
    CUcheckpointCustomStorageInfo* info = nullptr;
    CUcheckpointCheckpointArgs args{};
    args.customStorageInfo_out = &info;
    CHECK_RESULT(cuda.cuCheckpointProcessCheckpoint(pid, &args), CUDA_ERROR_NOT_SUPPORTED);
  });
  EXPECT_EQ(carrier.Wait(), 0);
  ASSERT_THAT(port->Checkpoint(processes), IsOk());
  ASSERT_THAT(port->Restore(processes, Map({{1, 1}})), IsOk());
  ASSERT_THAT(port->Unlock(processes), IsOk());
  ExpectRuns(*port, *job);
}

// A capture with custom storage that another program has begun is not ours to touch.
TEST_F(DriverFaultsTest, AProcessThatAnotherProgramCapturesIsLeftAlone) {
  UseNode({DeviceSpec(1)}, {"--driver-version", "13040"});
  const auto port = Port();
  auto job = StartJob();
  GpuProcess carrier(node().socket(), [pid = job->pid()](softgpu_test::Driver& cuda, softgpu_test::Link&) {
    CHECK_OK(cuda.cuInit(0));
    CUcontext context = nullptr;
    CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&context, 0));
    CHECK_OK(cuda.cuCheckpointProcessLock(pid, nullptr));
    CUcheckpointCustomStorageInfo* info = nullptr;
    CUcheckpointCheckpointArgs args{};
    args.customStorageInfo_out = &info;
    CHECK_OK(cuda.cuCheckpointProcessCheckpoint(pid, &args));
  });
  EXPECT_EQ(carrier.Wait(), 0);
  EXPECT_THAT(port->State(job->pid()), FailsWith(ErrorCode::kFailedPrecondition, "another program is capturing"));
  EXPECT_THAT(port->Lock(std::array{job->pid()}, seconds(1)),
              FailsWith(ErrorCode::kFailedPrecondition, "another program is capturing"));
  EXPECT_EQ(DriverState(job->pid()), CU_PROCESS_STATE_CHECKPOINTING);
}

TEST_F(DriverFaultsTest, F16SharedMemoryOutsideALaunchJobIsUnsupportedAndTheJobRunsOn) {
  UseNode({DeviceSpec(1)}, {"--fault", "F16"});
  const auto port = Port();
  auto job = StartJob();
  const std::array processes{job->pid()};
  ASSERT_THAT(port->Lock(processes, seconds(60)), IsOk());
  EXPECT_EQ(Checkpoint(job->pid()), CUDA_ERROR_NOT_SUPPORTED);
  EXPECT_EQ(DriverState(job->pid()), CU_PROCESS_STATE_LOCKED);
  EXPECT_THAT(port->Checkpoint(processes), FailsWith(ErrorCode::kUnsupported, "cannot carry"));
  ASSERT_THAT(port->Unlock(processes), IsOk());
  ExpectRuns(*port, *job);

  setenv("CUDA_CHECKPOINT_JOB_FILE", "/tmp/job", 1);
  auto in_job = StartJob();
  unsetenv("CUDA_CHECKPOINT_JOB_FILE");
  ASSERT_EQ(Lock(in_job->pid()), CUDA_SUCCESS);
  EXPECT_EQ(Checkpoint(in_job->pid()), CUDA_SUCCESS);
}

TEST_F(DriverFaultsTest, OneOfTwoThatCannotBeCapturedCostsNeitherAnything) {
  UseNode({DeviceSpec(1)});
  const auto port = Port();
  auto first = StartJob();
  auto second = StartJob();
  // Whichever comes second in the order by pid.
  const pid_t later = std::max(first->pid(), second->pid());
  node().Ctl("fault set F11@" + std::to_string(later));
  const std::array processes{first->pid(), second->pid()};
  ASSERT_THAT(port->Lock(processes, seconds(60)), IsOk());
  EXPECT_THAT(port->Checkpoint(processes), FailsWith(ErrorCode::kResourceExhausted, std::to_string(later)));
  for (const GpuProcess* job : {first.get(), second.get()}) ExpectState(*port, *job, GpuState::kLocked);
  ASSERT_THAT(port->Unlock(processes), IsOk());
  ExpectRuns(*port, *first);
  ExpectRuns(*port, *second);
}

TEST_F(DriverFaultsTest, FaultsCanBeSetListedAndCleared) {
  const std::string config = testing::TempDir() + "/softgpud-faults.conf";
  std::ofstream(config) << "# a node\nmemory=64MiB\nfault F1@4242\ndriver-version 13040\n";
  UseNode({}, {"--config", config, "--fault", "F9=700"});
  EXPECT_EQ(node().Ctl("fault list"), "F1@4242\nF9=700\n");
  EXPECT_EQ(node().Ctl("fault set F2 F13@5"), "F1@4242\nF9=700\nF2\nF13@5\n");
  EXPECT_EQ(node().Ctl("fault clear F1@4242 F9"), "F2\nF13@5\n");
  EXPECT_EQ(node().Ctl("fault clear-all"), "");
  std::filesystem::remove(config);
}

}  // namespace
}  // namespace gpumig
