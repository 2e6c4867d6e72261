#include "core/host/workload_tree.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <future>
#include <optional>
#include <thread>

#include "core/host/direct_memory.h"
#include "core/host/hidden_pages.h"
#include "core/host/page_server.h"
#include "core/host/process.h"

namespace gpumig {
namespace {

constexpr int kMostRescans = 50;
constexpr int kPagesOnTheirWay = 8 << 20;
constexpr std::chrono::seconds kRefreezeLimit{10};
// Long enough for a child of vfork() to exec.
constexpr std::chrono::milliseconds kVforkPause{2};

Result<void> CheckMovable(pid_t root) {
  if (root <= 1) return MakeError(ErrorCode::kInvalidArgument, "process {} is not a workload", root);
  const std::vector<pid_t> tree = GPUMIG_TRY(ProcessTree(root));
  if (std::find(tree.begin(), tree.end(), getpid()) != tree.end()) {
    return MakeError(ErrorCode::kInvalidArgument, "process {} is an ancestor of gpumig itself", root)
        .WithNextStep("run gpumig from a shell that the workload did not start");
  }
  // Only kernel threads have no program.
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink(fmt::format("/proc/{}/exe", root), error);
  if (error || program.empty()) return MakeError(ErrorCode::kInvalidArgument, "process {} is a kernel thread", root);
  return Ok();
}

Result<void> RemoveFilesIn(const std::filesystem::path& directory) {
  std::error_code error;
  for (const std::filesystem::directory_entry& entry : std::filesystem::directory_iterator(directory, error))
    std::filesystem::remove(entry.path(), error);
  if (error) return Error::FromErrno(error.value(), fmt::format("empty {}", directory.string()));
  return Ok();
}

Result<DumpedPages> AddHiddenBy(const PageFilter& filter, DumpedPages dumped) {
  GPUMIG_TRY(AddHidden(GPUMIG_TRY(ReadNotes(filter.notes.get())), dumped));
  return dumped;
}

}  // namespace

Result<HostPath> ParseHostPath(std::string_view text) {
  if (text == "direct") return HostPath::kDirect;
  if (text == "criu") return HostPath::kCriu;
  return MakeError(ErrorCode::kInvalidArgument, "a host path is direct or criu, not '{}'", text);
}

Result<WorkloadTree> WorkloadTree::Take(pid_t root, Cgroup cgroup) {
  GPUMIG_TRY(CheckMovable(root));
  const ProcessStat stat = GPUMIG_TRY(ReadProcessStat(root));
  WorkloadTree tree(root, stat.start_ticks, std::move(cgroup));
  for (int i = 0; i < kMostRescans; ++i) {
    if (!GPUMIG_TRY(tree.TakeStrays())) return tree;
  }
  GPUMIG_TRY(tree.Release());
  return MakeError(ErrorCode::kFailedPrecondition, "process {} starts children faster than they can be gathered", root);
}

Result<bool> WorkloadTree::TakeStrays() {
  const std::string ours = "/" + std::filesystem::relative(cgroup_.path(), GPUMIG_TRY(CgroupRoot())).string();
  bool found = false;
  for (const pid_t pid : GPUMIG_TRY(ProcessTree(root_))) {
    const Result<std::string> from = CgroupPathOf(pid);
    if (!from || *from == ours) continue;
    Result<void> added = cgroup_.Add(pid);
    if (!added && added.error().code() == ErrorCode::kNotFound) continue;  // It ended meanwhile.
    GPUMIG_TRY(std::move(added));
    came_from_.emplace(pid, *from);
    found = true;
  }
  return found;
}

Result<std::vector<pid_t>> WorkloadTree::Processes() const {
  std::vector<pid_t> processes = GPUMIG_TRY(cgroup_.Processes());
  const auto root = std::find(processes.begin(), processes.end(), root_);
  if (root == processes.end()) return MakeError(ErrorCode::kNotFound, "process {} has ended", root_);
  std::rotate(processes.begin(), root, root + 1);
  return processes;
}

Result<void> WorkloadTree::Freeze(std::chrono::milliseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (true) {
    GPUMIG_TRY(cgroup_.Freeze(limit));
    const bool strays = GPUMIG_TRY(TakeStrays());
    const std::vector<pid_t> processes = GPUMIG_TRY(cgroup_.Processes());
    const bool in_vfork = std::any_of(processes.begin(), processes.end(), WaitsForVforkChild);
    if (!strays && !in_vfork) break;
    if (std::chrono::steady_clock::now() >= deadline) {
      GPUMIG_TRY(cgroup_.Thaw());
      return MakeError(ErrorCode::kDeadlineExceeded, "process {} starts children faster than they can be frozen",
                       root_);
    }
    if (in_vfork) {
      GPUMIG_TRY(cgroup_.Thaw());
      std::this_thread::sleep_for(kVforkPause);
    }
  }
  return CheckAlive();
}

Result<TreeFacts> WorkloadTree::Facts() const {
  const std::vector<pid_t> processes = GPUMIG_TRY(Processes());
  TreeFacts facts;
  facts.inner_root = GPUMIG_TRY(NamespacePids(root_)).back();
  facts.process_count = processes.size();
  facts.resident_bytes = MemoryOf(processes).resident_bytes;
  for (const pid_t pid : processes) {
    const std::vector<pid_t> ids = GPUMIG_TRY(InnerThreadIds(pid));
    facts.inner_ids.insert(facts.inner_ids.end(), ids.begin(), ids.end());
    const pid_t session = GPUMIG_TRY(ReadProcessStat(pid)).session;
    if (std::find(processes.begin(), processes.end(), session) == processes.end()) facts.session_outside = true;
  }
  std::sort(facts.inner_ids.begin(), facts.inner_ids.end());
  return facts;
}

Result<MemoryMap> WorkloadTree::Dump(const Criu& criu, const Cgroup& criu_cgroup, const std::filesystem::path& images,
                                     HostPath path, const CriuNotify& notify) {
  const TreeFacts facts = GPUMIG_TRY(Facts());
  if (path == HostPath::kDirect) {
    if (std::optional<MemoryMap> map = GPUMIG_TRY(DumpDirectly(criu, criu_cgroup, images, facts, notify)))
      return *std::move(map);
    GPUMIG_TRY(RemoveFilesIn(images));
  }
  GPUMIG_TRY(DumpAll(criu, criu_cgroup, images, facts, {}, nullptr, notify));
  return MemoryMap();
}

Result<std::optional<MemoryMap>> WorkloadTree::DumpDirectly(const Criu& criu, const Cgroup& criu_cgroup,
                                                            const std::filesystem::path& images, const TreeFacts& facts,
                                                            const CriuNotify& notify) {
  std::optional<PageFilter> filter;
  if (const std::filesystem::path library = PageFilterLibrary(); !library.empty())
    filter = GPUMIG_TRY(MakePageFilter(library));
  SocketPair pages = GPUMIG_TRY(MakeSocketPair(SOCK_STREAM));
  // So that CRIU need not wait for us after every few pages. What we may not have costs time only.
  setsockopt(pages.theirs.get(), SOL_SOCKET, SO_SNDBUFFORCE, &kPagesOnTheirWay, sizeof(kPagesOnTheirWay));
  auto serve = [&images, socket = std::move(pages.ours)]() mutable { return ServePages(std::move(socket), images); };
  std::future<Result<DumpedPages>> served = std::async(std::launch::async, std::move(serve));
  Result<void> dumped =
      DumpAll(criu, criu_cgroup, images, facts, std::move(pages.theirs), filter ? &*filter : nullptr, notify);
  Result<DumpedPages> list = served.get();
  if (list && filter) list = AddHiddenBy(*filter, *std::move(list));
  if (!list && list.error().code() == ErrorCode::kUnsupported) return std::optional<MemoryMap>();
  GPUMIG_TRY(std::move(dumped));
  Result<MemoryMap> map = CompleteDump(GPUMIG_TRY(std::move(list)), GPUMIG_TRY(Processes()), images);
  if (!map && map.error().code() == ErrorCode::kUnsupported) return std::optional<MemoryMap>();
  return std::optional(GPUMIG_TRY(std::move(map)));
}

Result<void> WorkloadTree::DumpAll(const Criu& criu, const Cgroup& criu_cgroup, const std::filesystem::path& images,
                                   const TreeFacts& facts, UniqueFd page_server, const PageFilter* page_filter,
                                   const CriuNotify& notify) {
  CriuPlace place;
  place.cgroup = &criu_cgroup;
  CriuDump dump;
  // From inside its pid namespace, unless it is that namespace's first process: then CRIU dumps the namespace too.
  const bool inside = facts.inner_root != 1;
  if (inside) place.namespaces_of = root_;
  dump.root = inside ? facts.inner_root : root_;
  dump.images = images;
  dump.freeze_cgroup = cgroup_.path();
  dump.session_outside = facts.session_outside;
  dump.page_server = std::move(page_server);
  dump.page_filter = page_filter;
  Result<void> dumped = DumpWithCriu(criu, place, std::move(dump), notify);
  // CRIU thaws the tree while it works; whatever it answered, look at what the kernel says now.
  GPUMIG_TRY(CheckWhole(facts.process_count));
  return dumped;
}

// Never lets it run: what was dumped must be what stands here. So this is not Freeze(), which lets go of a tree in the
// middle of a vfork(); and a process that has just left one looks as if it still were.
Result<void> WorkloadTree::CheckWhole(std::size_t process_count) {
  GPUMIG_TRY(cgroup_.Freeze(kRefreezeLimit));
  GPUMIG_TRY(CheckAlive());
  const std::size_t left = GPUMIG_TRY(Processes()).size();
  if (left < process_count) {
    return MakeError(ErrorCode::kNotFound, "{} of {} processes died while CRIU dumped them", process_count - left,
                     process_count);
  }
  return Ok();
}

Result<void> WorkloadTree::CheckAlive() const {
  const ProcessStat stat = GPUMIG_TRY(ReadProcessStat(root_));
  if (stat.start_ticks != start_ticks_ || stat.state == 'Z')
    return MakeError(ErrorCode::kNotFound, "process {} has ended", root_);
  return Ok();
}

Result<void> WorkloadTree::Release() {
  const std::filesystem::path hierarchy = GPUMIG_TRY(CgroupRoot());
  const Result<std::vector<pid_t>> now = cgroup_.Processes();
  if (!now) return now.error();
  for (const pid_t pid : *now) {
    // A child that was born in our cgroup goes where its root came from.
    const auto known = came_from_.find(pid);
    const auto from = known != came_from_.end() ? known : came_from_.find(root_);
    if (from == came_from_.end()) continue;
    Cgroup home = GPUMIG_TRY(Cgroup::Open(hierarchy / from->second.substr(1)));
    Result<void> moved = home.Add(pid);
    if (!moved && moved.error().code() != ErrorCode::kNotFound) return moved;
  }
  came_from_.clear();
  return Ok();
}

}  // namespace gpumig
