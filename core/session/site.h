// Site: the directories of one node, and what the sessions on it share.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <string_view>

#include "core/base/result.h"

namespace gpumig {

struct Site {
  std::filesystem::path runtime_directory = "/run/gpumig";  // gone after a reboot: workloads, sockets
  std::filesystem::path state_directory =
      "/var/lib/gpumig";                                 // stays: journals, received images, output logs, CRIU logs
  std::filesystem::path staging_directory = "/dev/shm";  // memory: CRIU's files on their way

  std::string cgroup = "gpumig";  // below the root of cgroup v2: all cgroups of ours

  std::filesystem::path workloads() const { return runtime_directory / "workloads"; }
  std::filesystem::path outputs() const { return state_directory / "output"; }
  std::filesystem::path criu_logs() const { return state_directory / "criu-logs"; }

  // A new one, of a workload or for another passing use.
  std::string NewCgroup(std::string_view name) const;

  // As $GPUMIG_RUNTIME_DIR, $GPUMIG_STATE_DIR, $GPUMIG_STAGING_DIR and $GPUMIG_CGROUP say, else the defaults above.
  static Site FromEnvironment();
};

// Keeps the logs that CRIU left in `images`, newest first, ten of them, and gives the path of the one that says what
// failed; empty where there is none.
std::filesystem::path KeepCriuLog(const Site& site, const std::filesystem::path& images, const std::string& workload);

// "2026-01-31T12:34:56Z"
std::string UtcText(std::chrono::system_clock::time_point time);
std::string UtcNow();

// Eight random hexadecimal digits.
std::string RandomSuffix();

}  // namespace gpumig
