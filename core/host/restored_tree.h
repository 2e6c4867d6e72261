// RestoredTree: a process tree that CRIU restored, held by the kernel at the gate: whole, frozen, and not yet run a
// step.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "core/base/result.h"
#include "core/host/cgroup.h"
#include "core/host/criu.h"
#include "core/host/holder.h"
#include "core/host/workload_tree.h"

namespace gpumig {

// Where a tree is restored to.
struct RestorePlace {
  std::string cgroup;               // relative to CgroupRoot(); gets the children init, criu and tree
  std::filesystem::path exit_file;  // see Holder::Start
};

// Ownership: the tree lives on in its cgroup when this goes.
// Thread safety: one thread at a time.
class RestoredTree {
 public:
  // Restores `images` into fresh pid and mount namespaces and freezes the tree before its first step. What fails leaves
  // nothing behind. If CRIU or we die before the gate, the namespace's init ends and the kernel kills the tree.
  // Errors: kUnsupported with CRIU's own first error line; kDeadlineExceeded, it would not freeze.
  static Result<RestoredTree> RestoreToGate(const Criu& criu, const std::filesystem::path& images,
                                            const TreeFacts& facts, const RestorePlace& place);

  // One that an earlier process of ours restored; `cgroup` as in RestorePlace. Errors: kNotFound.
  static Result<RestoredTree> FindAgain(const std::string& cgroup, pid_t root, pid_t init);

  // As our pid namespace numbers them.
  pid_t root() const { return root_; }
  pid_t init() const { return init_; }
  Cgroup& cgroup() { return tree_; }
  Result<std::vector<pid_t>> Processes() const { return tree_.Processes(); }

  Result<bool> IsFrozen() const { return tree_.IsFrozen(); }
  // Lets it run. Errors: the kernel's; the tree is still frozen then.
  Result<void> Thaw() { return tree_.Thaw(); }
  // Kills it, frozen or not, and removes its cgroups.
  Result<void> Discard();

 private:
  RestoredTree(Cgroup all, Cgroup tree, pid_t root, pid_t init)
      : all_(std::move(all)), tree_(std::move(tree)), root_(root), init_(init) {}

  Cgroup all_;
  Cgroup tree_;
  pid_t root_;
  pid_t init_;
};

// A pid for CRIU that none of `taken` has, with room behind it for CRIU's own children.
pid_t PidBeside(const std::vector<pid_t>& taken, pid_t pid_max);

}  // namespace gpumig
