// Holds the threads of a process as CRIU and gpumig do while a driver works.
#pragma once

#include <gtest/gtest.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include <filesystem>
#include <string>
#include <vector>

namespace softgpu_test {

// Stops threads one by one, wherever they are.
class StoppedThreads {
 public:
  StoppedThreads(pid_t pid, pid_t except) {
    for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
      const pid_t tid = std::stoi(entry.path().filename());
      if (tid == except) continue;
      if (ptrace(PTRACE_SEIZE, tid, nullptr, nullptr) != 0 || ptrace(PTRACE_INTERRUPT, tid, nullptr, nullptr) != 0) {
        ADD_FAILURE() << "cannot stop thread " << tid;
        continue;
      }
      int status = 0;
      waitpid(tid, &status, __WALL);
      tids_.push_back(tid);
    }
  }
  ~StoppedThreads() {
    for (const pid_t tid : tids_) ptrace(PTRACE_DETACH, tid, nullptr, nullptr);
  }
  std::size_t count() const { return tids_.size(); }

 private:
  std::vector<pid_t> tids_;
};

}  // namespace softgpu_test
