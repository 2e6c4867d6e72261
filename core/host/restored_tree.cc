#include "core/host/restored_tree.h"

#include <algorithm>
#include <cstdlib>

#include "core/base/file.h"
#include "core/host/process.h"

namespace gpumig {
namespace {

constexpr std::chrono::seconds kGateLimit{30};
constexpr std::chrono::seconds kKillLimit{30};
// CRIU forks helpers beside the tasks it restores; their pids follow its own.
constexpr pid_t kRoomForCriu = 64;
constexpr pid_t kFirstOrdinaryPid = 300;

Result<pid_t> PidMax() {
  return static_cast<pid_t>(std::atoi(GPUMIG_TRY(ReadTextFile("/proc/sys/kernel/pid_max")).c_str()));
}

// All that CRIU restored into its own cgroup goes to the tree's, which is told to freeze; CRIU itself stays.
Result<void> CloseGate(const Cgroup& criu_cgroup, Cgroup& tree, pid_t criu_inner_pid) {
  GPUMIG_TRY(tree.RequestFreeze());
  for (const pid_t pid : GPUMIG_TRY(criu_cgroup.Processes())) {
    const Result<std::vector<pid_t>> numbers = NamespacePids(pid);
    if (!numbers || numbers->back() == criu_inner_pid) continue;
    GPUMIG_TRY(tree.Add(pid));
  }
  return Ok();
}

Result<pid_t> FindByInnerPid(const Cgroup& tree, pid_t inner) {
  for (const pid_t pid : GPUMIG_TRY(tree.Processes())) {
    if (GPUMIG_TRY(NamespacePids(pid)).back() == inner) return pid;
  }
  return MakeError(ErrorCode::kInternal, "criu says it restored process {}, which is not there", inner);
}

// CRIU has let go of the tree and the kernel alone holds it. CRIU waits for our answer, so that it has not ended yet,
// which init would take for its death.
Result<void> PassGate(Holder& holder, Cgroup& tree, const TreeFacts& facts, pid_t& root) {
  GPUMIG_TRY(tree.AwaitFrozen(kGateLimit));
  root = GPUMIG_TRY(FindByInnerPid(tree, facts.inner_root));
  if (const std::size_t count = GPUMIG_TRY(tree.Processes()).size(); count < facts.process_count) {
    return MakeError(ErrorCode::kInternal, "criu restored {} of {} processes", count, facts.process_count);
  }
  return holder.PassGate(facts.inner_root);
}

// The work of RestoreToGate() without its cleaning up. Gives the root and init.
Result<std::pair<pid_t, pid_t>> Restore(const Criu& criu, const std::filesystem::path& images, const TreeFacts& facts,
                                        const RestorePlace& where, Cgroup& tree) {
  const Cgroup init_cgroup = GPUMIG_TRY(Cgroup::Create(where.cgroup + "/init"));
  Cgroup criu_cgroup = GPUMIG_TRY(Cgroup::Create(where.cgroup + "/criu"));
  Holder holder = GPUMIG_TRY(Holder::Start(init_cgroup, tree, where.exit_file, std::nullopt));

  CriuPlace place;
  place.cgroup = &criu_cgroup;
  place.namespaces_of = holder.init_pid();
  place.pid = PidBeside(facts.inner_ids, GPUMIG_TRY(PidMax()));
  place.on_started = [&](pid_t inner_pid) { return holder.WatchCriu(inner_pid); };
  pid_t root = 0;
  std::optional<Error> gate_error;
  const CriuNotify notify = [&](std::string_view script) -> Result<void> {
    Result<void> done = Ok();
    if (script == "pre-resume") done = CloseGate(criu_cgroup, tree, *place.pid);
    if (script == "post-resume") done = PassGate(holder, tree, facts, root);
    // CRIU does not heed an error here and would let the tree run; so whoever fails here ends it.
    if (!done) {
      gate_error = done.error();
      [[maybe_unused]] const Result<void> killed = WriteControlFile(init_cgroup.path() / "cgroup.kill", "1");
    }
    return done;
  };
  CriuRestore restore;
  restore.images = images;
  restore.session_outside = facts.session_outside;
  const Result<pid_t> restored = RestoreWithCriu(criu, place, restore, notify);
  if (gate_error) return *gate_error;
  if (!restored) return restored.error();
  return std::pair(root, holder.init_pid());
}

}  // namespace

Result<RestoredTree> RestoredTree::RestoreToGate(const Criu& criu, const std::filesystem::path& images,
                                                 const TreeFacts& facts, const RestorePlace& place) {
  Cgroup all = GPUMIG_TRY(Cgroup::Create(place.cgroup));
  Cgroup tree = GPUMIG_TRY(Cgroup::Create(place.cgroup + "/tree"));
  const Result<std::pair<pid_t, pid_t>> restored = Restore(criu, images, facts, place, tree);
  RestoredTree result(std::move(all), std::move(tree), restored ? restored->first : 0, restored ? restored->second : 0);
  if (!restored) {
    [[maybe_unused]] const Result<void> discarded = result.Discard();
    return restored.error();
  }
  return result;
}

Result<RestoredTree> RestoredTree::FindAgain(const std::string& cgroup, pid_t root, pid_t init) {
  const std::filesystem::path hierarchy = GPUMIG_TRY(CgroupRoot());
  Cgroup all = GPUMIG_TRY(Cgroup::Open(hierarchy / cgroup));
  Cgroup tree = GPUMIG_TRY(Cgroup::Open(hierarchy / cgroup / "tree"));
  return RestoredTree(std::move(all), std::move(tree), root, init);
}

Result<void> RestoredTree::Discard() {
  GPUMIG_TRY(all_.Kill(kKillLimit));
  return all_.Remove();
}

pid_t PidBeside(const std::vector<pid_t>& taken, pid_t pid_max) {
  std::vector<pid_t> sorted = taken;
  std::sort(sorted.begin(), sorted.end());
  const pid_t last = sorted.empty() ? 0 : sorted.back();
  if (const pid_t behind = std::max(last, kFirstOrdinaryPid) + kRoomForCriu; behind + kRoomForCriu < pid_max)
    return behind;
  // Near the top of the range: the first gap that is wide enough.
  pid_t candidate = kFirstOrdinaryPid;
  for (const pid_t pid : sorted) {
    if (pid >= candidate + kRoomForCriu) break;
    candidate = std::max(candidate, pid + 1);
  }
  return candidate;
}

}  // namespace gpumig
