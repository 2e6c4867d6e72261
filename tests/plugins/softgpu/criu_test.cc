// The software GPU and a real CRIU: what a process image can and cannot carry.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/plugins/softgpu/driver.h"
#include "tests/plugins/softgpu/soft_node.h"
#include "tests/support/needs.h"

namespace softgpu_test {
namespace {

constexpr int kSteps = 30;

std::string FindCriu() {
  for (const char* path : {"/opt/gpumig/criu/sbin/criu", "/usr/local/sbin/criu", "/usr/sbin/criu"}) {
    if (access(path, X_OK) == 0) return path;
  }
  return {};
}

// CRIU's own CUDA plugin, of the same build as CRIU. Empty: not there.
std::string FindPluginDirectory() {
  for (const char* path : {"/opt/gpumig/criu/lib/criu", "/usr/local/lib/criu", "/usr/lib/criu"}) {
    if (access((std::string(path) + "/cuda_plugin.so").c_str(), R_OK) == 0) return path;
  }
  return {};
}

int RunProgram(const std::vector<std::string>& arguments,
               const std::vector<std::pair<std::string, std::string>>& environment = {}) {
  const pid_t pid = fork();
  if (pid == 0) {
    for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
    std::vector<char*> argv;
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    execv(argv[0], argv.data());
    _exit(127);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::vector<std::string> ReadLines(const std::string& path) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

std::string ReadText(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

class SoftGpuCriuTest : public testing::Test {
 protected:
  void SetUp() override {
    GPUMIG_NEEDS_ROOT();
    criu_ = FindCriu();
    GPUMIG_NEEDS("criu", !criu_.empty(), "needs CRIU");
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "CRIU cannot restore the address space of a sanitised program";
#endif
    // Restored processes become our children.
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    std::string pattern = (std::filesystem::temp_directory_path() / "softgpu-criu-XXXXXX").string();
    directory_ = mkdtemp(pattern.data());
    std::filesystem::create_directory(directory_ + "/image");
    socket_ = directory_ + "/softgpud.sock";
  }
  void TearDown() override {
    if (job_ > 0) {
      kill(job_, SIGKILL);
      waitpid(job_, nullptr, 0);
    }
    if (!directory_.empty()) std::filesystem::remove_all(directory_);
  }

  void PointAt(const SoftNode& node) {
    std::filesystem::create_symlink(node.socket(), socket_ + ".new");
    std::filesystem::rename(socket_ + ".new", socket_);
  }

  void StartJob(const std::string& log) {
    job_ = fork();
    if (job_ == 0) {
      // Ours may come from outside of this mount namespace, and CRIU could not say where they are.
      const int null = open("/dev/null", O_RDWR);
      for (int fd = 0; fd <= 2; ++fd) dup2(null, fd);
      syscall(SYS_close_range, 3u, ~0u, 0);
      setenv("SOFTGPU_SOCKET", socket_.c_str(), 1);
      execl(SOFTGPU_TRACED_JOB, SOFTGPU_TRACED_JOB, log.c_str(), std::to_string(kSteps).c_str(), "20", nullptr);
      _exit(127);
    }
  }

  bool WaitForLines(const std::string& log, std::size_t count) {
    for (int i = 0; i < 3000; ++i) {
      if (ReadLines(log).size() >= count) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  int Dump() {
    return RunProgram(
        {criu_, "dump", "-t", std::to_string(job_), "-D", directory_ + "/image", "-o", "dump.log", "-v4"});
  }

  std::string criu_;
  std::string directory_;
  std::string socket_;
  pid_t job_ = -1;
};

TEST_F(SoftGpuCriuTest, DumpOfARunningProcessIsRefused) {
  SoftNode node({"memory=64MiB"});
  PointAt(node);
  const std::string log = directory_ + "/trace";
  StartJob(log);
  ASSERT_TRUE(WaitForLines(log, 2));
  EXPECT_NE(Dump(), 0);
  EXPECT_NE(ReadText(directory_ + "/image/dump.log").find("xternal socket is used"), std::string::npos)
      << "refused for another reason";
  EXPECT_TRUE(WaitForLines(log, kSteps)) << "the job did not go on";
}

TEST_F(SoftGpuCriuTest, AJobMovesToAnotherDaemonThroughAnImage) {
  const std::string log = directory_ + "/trace";
  const std::string undisturbed = directory_ + "/undisturbed";
  SoftNode a({"memory=64MiB,uuid=" + TestUuid(1)});
  PointAt(a);
  StartJob(undisturbed);
  ASSERT_TRUE(WaitForLines(undisturbed, kSteps));
  waitpid(job_, nullptr, 0);

  Driver cuda = OpenSoftDriver();
  StartJob(log);
  const pid_t pid = job_;
  ASSERT_TRUE(WaitForLines(log, 5));
  CUcheckpointLockArgs lock{};
  lock.timeoutMs = 10000;
  int tid_before = 0;
  ASSERT_EQ(cuda.cuCheckpointProcessGetRestoreThreadId(pid, &tid_before), CUDA_SUCCESS);
  ASSERT_EQ(cuda.cuCheckpointProcessLock(pid, &lock), CUDA_SUCCESS);
  ASSERT_EQ(cuda.cuCheckpointProcessCheckpoint(pid, nullptr), CUDA_SUCCESS);
  EXPECT_EQ(a.used_bytes(), 0);
  ASSERT_EQ(Dump(), 0) << ReadText(directory_ + "/image/dump.log");
  waitpid(pid, nullptr, 0);
  job_ = -1;
  const std::size_t steps_before = ReadLines(log).size();
  EXPECT_LT(steps_before, static_cast<std::size_t>(kSteps));

  SoftNode b({"memory=64MiB,uuid=" + TestUuid(2)});
  PointAt(b);
  a.Kill();
  ASSERT_EQ(RunProgram({criu_, "restore", "-d", "-D", directory_ + "/image", "-o", "restore.log", "-v4"}), 0)
      << ReadText(directory_ + "/image/restore.log");
  job_ = pid;
  CUprocessState state{};
  ASSERT_EQ(cuda.cuCheckpointProcessGetState(pid, &state), CUDA_SUCCESS);
  EXPECT_EQ(state, CU_PROCESS_STATE_CHECKPOINTED);
  int tid_after = 0;
  EXPECT_EQ(cuda.cuCheckpointProcessGetRestoreThreadId(pid, &tid_after), CUDA_SUCCESS);
  EXPECT_EQ(tid_after, tid_before);
  CUcheckpointGpuPair pair{};
  pair.oldUuid.bytes[15] = 1;
  pair.newUuid.bytes[15] = 2;
  CUcheckpointRestoreArgs args{};
  args.gpuPairs = &pair;
  args.gpuPairsCount = 1;
  ASSERT_EQ(cuda.cuCheckpointProcessRestore(pid, &args), CUDA_SUCCESS);
  EXPECT_GT(b.used_bytes(), 4 << 20);
  EXPECT_EQ(ReadLines(log).size(), steps_before);  // Nothing has moved before the unlock.
  ASSERT_EQ(cuda.cuCheckpointProcessUnlock(pid, nullptr), CUDA_SUCCESS);
  ASSERT_TRUE(WaitForLines(log, kSteps));
  EXPECT_EQ(ReadLines(log), ReadLines(undisturbed));
  int status = -1;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
  job_ = -1;
  EXPECT_TRUE(b.WaitUntilUnused());
}

// What CRIU and its plugin do with NVIDIA's driver and tool, they do with these: with every thread of the process
// stopped but the restore thread, and with no help of ours.
class CriuPluginTest : public SoftGpuCriuTest {
 protected:
  void SetUp() override {
    SoftGpuCriuTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    plugins_ = FindPluginDirectory();
    GPUMIG_NEEDS("criu-cuda-plugin", !plugins_.empty(), "needs CRIU's cuda_plugin.so (scripts/bootstrap builds it)");
  }

  // Source: CRIU's fault-injection.h: 138 has the plugin work without /proc/driver/nvidia.
  int Criu(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), criu_);
    arguments.insert(arguments.end(), {"-L", plugins_, "-D", directory_ + "/image", "-v4"});
    return RunProgram(arguments, {{"CRIU_FAULT", "138"},
                                  {"PATH", std::string(CUDA_CHECKPOINT_DIRECTORY) + ":/usr/bin:/bin"},
                                  {"LD_LIBRARY_PATH", SOFTGPU_LIBRARY_DIRECTORY},
                                  {"SOFTGPU_SOCKET", socket_}});
  }

  std::string plugins_;
};

TEST_F(CriuPluginTest, CriuAndItsOwnPluginMoveAJobToAnotherDaemon) {
  const std::string log = directory_ + "/trace";
  const std::string undisturbed = directory_ + "/undisturbed";
  SoftNode a({"memory=64MiB,uuid=" + TestUuid(1)});
  PointAt(a);
  StartJob(undisturbed);
  ASSERT_TRUE(WaitForLines(undisturbed, kSteps));
  waitpid(job_, nullptr, 0);
  StartJob(log);
  const pid_t pid = job_;
  ASSERT_TRUE(WaitForLines(log, 5));
  ASSERT_EQ(Criu({"dump", "-t", std::to_string(pid), "-o", "dump.log"}), 0) << ReadText(directory_ + "/image/dump.log");
  EXPECT_NE(ReadText(directory_ + "/image/dump.log").find("cuda_plugin: Checkpointing CUDA devices"),
            std::string::npos);
  waitpid(pid, nullptr, 0);
  job_ = -1;
  EXPECT_EQ(a.used_bytes(), 0);
  EXPECT_LT(ReadLines(log).size(), static_cast<std::size_t>(kSteps));

  SoftNode b({"memory=64MiB,uuid=" + TestUuid(1)});  // The plugin gives no map.
  PointAt(b);
  ASSERT_EQ(Criu({"restore", "-d", "-o", "restore.log"}), 0) << ReadText(directory_ + "/image/restore.log");
  job_ = pid;
  ASSERT_TRUE(WaitForLines(log, kSteps));
  EXPECT_EQ(ReadLines(log), ReadLines(undisturbed));
  int status = -1;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
  job_ = -1;
}

TEST_F(CriuPluginTest, ADumpThatLeavesItRunningPutsItsStateBack) {
  const std::string log = directory_ + "/trace";
  SoftNode node({"memory=64MiB,uuid=" + TestUuid(1)});
  PointAt(node);
  StartJob(log);
  ASSERT_TRUE(WaitForLines(log, 5));
  ASSERT_EQ(Criu({"dump", "-R", "-t", std::to_string(job_), "-o", "dump.log"}), 0)
      << ReadText(directory_ + "/image/dump.log");
  EXPECT_TRUE(WaitForLines(log, kSteps));
}

TEST_F(CriuPluginTest, ALockThatTimesOutFailsTheDumpAndTheJobRunsOn) {
  const std::string log = directory_ + "/trace";
  SoftNode node({"memory=64MiB,uuid=" + TestUuid(1)});
  PointAt(node);
  StartJob(log);
  ASSERT_TRUE(WaitForLines(log, 5));
  node.Ctl("fault set F13");
  EXPECT_NE(Criu({"dump", "--timeout", "1", "-t", std::to_string(job_), "-o", "dump.log"}), 0);
  EXPECT_NE(ReadText(directory_ + "/image/dump.log").find("PAUSE_DEVICES failed"), std::string::npos);
  node.Ctl("fault clear F13");
  EXPECT_TRUE(WaitForLines(log, kSteps));
}

}  // namespace
}  // namespace softgpu_test
