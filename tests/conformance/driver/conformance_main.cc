// Checks a driver against what the software GPU claims drivers do, and prints a table claim by claim.
//
//   GPUMIG_LIBCUDA=/path/to/libcuda.so.1 driver_conformance [--list] [CLAIM...]
//
// Exit status: 0, all same or not supported; 1, something is different; 2, the driver cannot be used.
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/conformance/driver/probe.h"

namespace conformance {
namespace {

constexpr int kLimitSeconds = 60;

// What the claim's process printed; `status` as of waitpid(), or -1 if it did not end in time.
std::string RunApart(const Claim& claim, int& status) {
  int ends[2];
  if (pipe(ends) != 0) std::exit(2);
  std::fflush(stdout);
  const pid_t pid = fork();
  if (pid == 0) {
    setpgid(0, 0);
    dup2(ends[1], STDOUT_FILENO);
    close(ends[0]);
    close(ends[1]);
    RunClaim(claim);
  }
  close(ends[1]);
  std::string text;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(kLimitSeconds);
  bool ended = false;
  while (!ended) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    pollfd wait{ends[0], POLLIN, 0};
    if (left <= 0 || poll(&wait, 1, static_cast<int>(left)) == 0) break;
    char buffer[4096];
    const ssize_t count = read(ends[0], buffer, sizeof(buffer));
    if (count <= 0) ended = true;
    if (count > 0) text.append(buffer, static_cast<std::size_t>(count));
  }
  close(ends[0]);
  if (!ended) kill(-pid, SIGKILL);
  waitpid(pid, &status, 0);
  if (!ended) status = -1;
  return text;
}

bool IsAsked(const Claim& claim, int argc, char** argv) {
  if (argc < 2) return true;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], claim.name) == 0) return true;
  }
  return false;
}

void Indent(const std::string& text) {
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::printf("    %s\n", text.substr(begin, end - begin).c_str());
    begin = end + 1;
  }
}

int Run(int argc, char** argv) {
  int counts[3] = {};
  for (const Claim& claim : AllClaims()) {
    if (argc == 2 && std::strcmp(argv[1], "--list") == 0) {
      std::printf("%-44s %s\n", claim.name, claim.says);
      continue;
    }
    if (!IsAsked(claim, argc, argv)) continue;
    int status = 0;
    std::string text = RunApart(claim, status);
    Verdict verdict = Verdict::kDifferent;
    if (status == -1) {
      text += "it did not end within " + std::to_string(kLimitSeconds) + " s\n";
    } else if (WIFSIGNALED(status)) {
      text += "it ended by signal " + std::to_string(WTERMSIG(status)) + "\n";
    } else if (WEXITSTATUS(status) <= 2) {
      verdict = static_cast<Verdict>(WEXITSTATUS(status));
    } else {
      return 2;
    }
    static constexpr const char* kWords[] = {"same", "DIFFERENT", "not supported"};
    const int index = static_cast<int>(verdict);
    ++counts[index];
    std::printf("%-14s %-44s %s\n", kWords[index], claim.name, claim.says);
    if (verdict != Verdict::kSame) Indent(text);
  }
  if (counts[0] + counts[1] + counts[2] > 0) {
    std::printf("%d same, %d different, %d not supported\n", counts[0], counts[1], counts[2]);
  }
  return counts[1] == 0 ? 0 : 1;
}

}  // namespace
}  // namespace conformance

int main(int argc, char** argv) { return conformance::Run(argc, argv); }
