// Drives CRIU by its RPC (`criu swrk`): one CRIU process per operation, in a cgroup of its own.
//
// We never signal CRIU: killed in the middle of a dump it can take the workload with it (measured: 8 of 830). A call
// returns when CRIU has ended by itself.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/result.h"
#include "core/base/unique_fd.h"
#include "core/host/cgroup.h"
#include "core/host/hidden_pages.h"

namespace gpumig {

// A CRIU program that is new enough.
struct Criu {
  std::filesystem::path program;
  std::string version;  // "4.1.1"
};

// $GPUMIG_CRIU, else the newest of those in PATH and of the private prefix that scripts/bootstrap fills.
// Errors: kUnsupported, none is there or none is new enough; the message names each that was looked at.
Result<Criu> FindCriu();

// Where CRIU is to run.
struct CriuPlace {
  const Cgroup* cgroup = nullptr;      // it and all it restores start here
  std::optional<pid_t> namespaces_of;  // in the pid, mount, network and ipc namespaces of this process
  std::optional<pid_t> pid;            // with this pid in that pid namespace
  // Called with CRIU's pid, as the innermost namespace numbers it, before it is asked for anything.
  std::function<Result<void>(pid_t)> on_started;
};

// Called at CRIU's notify points by their names ("pre-dump", "post-dump", "pre-resume", ...); CRIU waits for the
// answer. An error is passed on to CRIU, which undoes a dump for it; at "pre-resume" of a restore CRIU ignores it.
using CriuNotify = std::function<Result<void>(std::string_view script)>;

struct CriuDump {
  pid_t root = 0;                       // as CRIU's pid namespace numbers it
  std::filesystem::path images;         // an empty directory
  std::filesystem::path freeze_cgroup;  // frozen before, frozen after
  bool session_outside = false;         // the tree's session leader is not part of it
  // Where pages go instead of into files: the peer serves them (core/host/page_server.h). Closed before CRIU is waited
  // for.
  UniqueFd page_server;
  // Keeps from CRIU what the page server is not to be sent; borrowed. REQUIRES: page_server
  const PageFilter* page_filter = nullptr;
};
// The tree stays as it was: frozen and whole. Errors: kUnsupported, CRIU cannot dump something, with CRIU's own first
// error line; kInternal, CRIU died. The tree may run again after an error, whatever the freezer said before.
Result<void> DumpWithCriu(const Criu& criu, const CriuPlace& place, CriuDump dump, const CriuNotify& notify);

struct CriuRestore {
  std::filesystem::path images;
  bool session_outside = false;
};
// Gives the root's pid as CRIU's pid namespace numbers it.
Result<pid_t> RestoreWithCriu(const Criu& criu, const CriuPlace& place, const CriuRestore& restore,
                              const CriuNotify& notify);

// The first line of a CRIU log that says what went wrong, without its time stamp; empty where there is none.
std::string FirstCriuError(std::string_view log);

// `criu check`: empty where all is well, else what it said.
Result<std::string> CheckCriu(const Criu& criu);

}  // namespace gpumig
