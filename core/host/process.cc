#include "core/host/process.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <sstream>

#include "core/base/file.h"

namespace gpumig {
namespace {

Error Gone(pid_t pid) { return MakeError(ErrorCode::kNotFound, "there is no process {}", pid); }

Result<std::string> ReadOf(pid_t pid, const std::string& file) {
  Result<std::string> text = ReadTextFile(fmt::format("/proc/{}/{}", pid, file));
  if (!text && text.error().code() == ErrorCode::kNotFound) return Gone(pid);
  return text;
}

std::uint64_t KilobytesAfter(const std::string& text, const std::string& key) {
  const std::size_t at = text.find(key);
  if (at == std::string::npos) return 0;
  return std::strtoull(text.c_str() + at + key.size(), nullptr, 10) * 1024;
}

std::vector<pid_t> NumbersOfLine(const std::string& text, const std::string& key) {
  std::vector<pid_t> numbers;
  const std::size_t at = text.find(key);
  if (at == std::string::npos) return numbers;
  std::istringstream line(text.substr(at + key.size(), text.find('\n', at) - at - key.size()));
  for (pid_t number = 0; line >> number;) numbers.push_back(number);
  return numbers;
}

std::vector<pid_t> NumericEntries(const std::filesystem::path& directory) {
  std::vector<pid_t> numbers;
  std::error_code ignored;
  for (std::filesystem::directory_iterator entry(directory, ignored), end; entry != end; entry.increment(ignored)) {
    const std::string name = entry->path().filename();
    pid_t number = 0;
    const auto [stop, error] = std::from_chars(name.data(), name.data() + name.size(), number);
    if (error == std::errc() && stop == name.data() + name.size()) numbers.push_back(number);
  }
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

}  // namespace

Result<ProcessStat> ReadProcessStat(pid_t pid) {
  const std::string text = GPUMIG_TRY(ReadOf(pid, "stat"));
  // The command stands in parentheses and may hold spaces and parentheses itself.
  const std::size_t open = text.find('(');
  const std::size_t close = text.rfind(')');
  if (open == std::string::npos || close == std::string::npos) return Gone(pid);
  ProcessStat stat;
  stat.pid = pid;
  stat.command = text.substr(open + 1, close - open - 1);
  std::istringstream rest(text.substr(close + 1));
  std::uint64_t skipped = 0;
  rest >> stat.state >> stat.parent >> skipped >> stat.session;
  std::string field;
  for (int index = 7; index <= 22 && rest >> field; ++index) {
    if (index == 22) stat.start_ticks = std::strtoull(field.c_str(), nullptr, 10);
  }
  return stat;
}

Result<std::vector<ProcessStat>> ListProcesses() {
  std::vector<ProcessStat> processes;
  for (const pid_t pid : NumericEntries("/proc")) {
    Result<ProcessStat> stat = ReadProcessStat(pid);
    if (stat) processes.push_back(std::move(*stat));  // Else it ended while we looked.
  }
  return processes;
}

Result<std::vector<pid_t>> ProcessTree(pid_t root) {
  std::multimap<pid_t, ProcessStat> children;
  bool found = false;
  for (ProcessStat& stat : GPUMIG_TRY(ListProcesses())) {
    if (stat.state == 'Z' || stat.state == 'X') continue;
    found = found || stat.pid == root;
    children.emplace(stat.parent, std::move(stat));
  }
  if (!found) return Gone(root);
  std::vector<pid_t> tree = {root};
  for (std::size_t i = 0; i < tree.size(); ++i) {
    const auto [first, last] = children.equal_range(tree[i]);
    for (auto child = first; child != last; ++child) tree.push_back(child->second.pid);
  }
  return tree;
}

Result<std::vector<pid_t>> NamespacePids(pid_t pid) {
  const std::string status = GPUMIG_TRY(ReadOf(pid, "status"));
  std::vector<pid_t> pids = NumbersOfLine(status, "NSpid:");
  if (pids.empty()) pids.push_back(pid);
  return pids;
}

Result<std::vector<pid_t>> InnerThreadIds(pid_t pid) {
  std::vector<pid_t> inner;
  for (const pid_t thread : NumericEntries(fmt::format("/proc/{}/task", pid))) {
    const Result<std::string> status = ReadTextFile(fmt::format("/proc/{}/task/{}/status", pid, thread));
    if (!status) continue;
    const std::vector<pid_t> numbers = NumbersOfLine(*status, "NSpid:");
    inner.push_back(numbers.empty() ? thread : numbers.back());
  }
  if (inner.empty()) return Gone(pid);
  return inner;
}

bool WaitsForVforkChild(pid_t pid) {
  for (const pid_t thread : NumericEntries(fmt::format("/proc/{}/task", pid))) {
    // The number of the system call and its arguments in hexadecimal, while it is blocked in one.
    const Result<std::string> text = ReadTextFile(fmt::format("/proc/{}/task/{}/syscall", pid, thread));
    if (!text) continue;
    std::istringstream fields(*text);
    long number = -1;
    std::string first_argument;
    fields >> number >> first_argument;
    if (number == SYS_vfork || number == SYS_clone3) return true;
    if (number == SYS_clone && (std::strtoull(first_argument.c_str(), nullptr, 16) & CLONE_VFORK) != 0) return true;
  }
  return false;
}

Result<bool> SharesNamespace(pid_t a, pid_t b, const std::string& kind) {
  std::error_code error;
  const auto of_a = std::filesystem::read_symlink(fmt::format("/proc/{}/ns/{}", a, kind), error);
  if (error) return Gone(a);
  const auto of_b = std::filesystem::read_symlink(fmt::format("/proc/{}/ns/{}", b, kind), error);
  if (error) return Gone(b);
  return of_a == of_b;
}

ProcessMemory MemoryOf(const std::vector<pid_t>& processes) {
  ProcessMemory sum;
  for (const pid_t pid : processes) {
    const Result<std::string> rollup = ReadTextFile(fmt::format("/proc/{}/smaps_rollup", pid));
    if (!rollup) continue;
    sum.resident_bytes += KilobytesAfter(*rollup, "\nRss:");
    sum.anonymous_bytes += KilobytesAfter(*rollup, "\nAnonymous:");
  }
  return sum;
}

Result<std::uint64_t> AvailableMemory() {
  return KilobytesAfter(GPUMIG_TRY(ReadTextFile("/proc/meminfo")), "\nMemAvailable:");
}

Result<std::string> CgroupPathOf(pid_t pid) {
  std::istringstream lines(GPUMIG_TRY(ReadOf(pid, "cgroup")));
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("0::")) return line.substr(3);
  }
  return std::string();
}

}  // namespace gpumig
