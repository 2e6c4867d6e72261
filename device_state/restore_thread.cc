#include "device_state/restore_thread.h"

#include <charconv>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

#include "core/base/file.h"

namespace gpumig {
namespace {

// The last number of the NSpid line: the one that the thread itself sees. 0: the thread is gone.
pid_t InnermostNumber(const std::filesystem::path& task) {
  const Result<std::string> status = ReadTextFile(task / "status");
  if (!status) return 0;
  const std::size_t start = status->find("\nNSpid:");
  if (start == std::string::npos) return 0;
  std::string_view line = std::string_view(*status).substr(start + 1);
  line = line.substr(0, line.find('\n'));
  line.remove_prefix(line.find_last_of(" \t:") + 1);
  pid_t number = 0;
  std::from_chars(line.data(), line.data() + line.size(), number);
  return number;
}

}  // namespace

Result<pid_t> ThreadInOurNamespace(pid_t process, pid_t told) {
  pid_t with_inner_number = 0;
  std::error_code error;
  std::filesystem::directory_iterator entry(fmt::format("/proc/{}/task", process), error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename();
    pid_t thread = 0;
    std::from_chars(name.data(), name.data() + name.size(), thread);
    if (thread == told) return thread;
    if (InnermostNumber(entry->path()) == told) with_inner_number = thread;
  }
  if (with_inner_number != 0) return with_inner_number;
  return MakeError(ErrorCode::kNotFound, "process {} has no thread {}, which its GPU driver restores it by", process,
                   told);
}

}  // namespace gpumig
