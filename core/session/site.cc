#include "core/session/site.h"

#include <fmt/chrono.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "core/base/bytes.h"
#include "core/base/check.h"
#include "core/base/file.h"

namespace gpumig {
namespace {

constexpr std::size_t kLogsKept = 10;

template <typename T>
void Override(T& setting, const char* variable) {
  if (const char* value = std::getenv(variable); value != nullptr && *value != '\0') setting = value;
}

}  // namespace

Site Site::FromEnvironment() {
  Site site;
  Override(site.runtime_directory, "GPUMIG_RUNTIME_DIR");
  Override(site.state_directory, "GPUMIG_STATE_DIR");
  Override(site.staging_directory, "GPUMIG_STAGING_DIR");
  Override(site.cgroup, "GPUMIG_CGROUP");
  return site;
}

std::string Site::NewCgroup(std::string_view name) const {
  return fmt::format("{}/{}-{}", cgroup, name, RandomSuffix());
}

std::filesystem::path KeepCriuLog(const Site& site, const std::filesystem::path& images, const std::string& workload) {
  std::error_code ignored;
  std::filesystem::path kept;
  if (!MakeDirectories(site.criu_logs())) return kept;
  for (const char* name : {"dump.log", "restore.log"}) {
    if (!std::filesystem::exists(images / name, ignored)) continue;
    const std::filesystem::path to = site.criu_logs() / fmt::format("{}-{}-{}", UtcNow(), workload, name);
    if (std::filesystem::copy_file(images / name, to, ignored)) kept = to;
  }
  std::vector<std::filesystem::path> logs;
  for (std::filesystem::directory_iterator entry(site.criu_logs(), ignored), end; entry != end;
       entry.increment(ignored)) {
    logs.push_back(entry->path());
  }
  std::sort(logs.rbegin(), logs.rend());  // Their names begin with the time.
  for (std::size_t i = kLogsKept; i < logs.size(); ++i) std::filesystem::remove(logs[i], ignored);
  return kept;
}

std::string UtcText(std::chrono::system_clock::time_point time) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::chrono::system_clock::to_time_t(time)));
}

std::string UtcNow() { return UtcText(std::chrono::system_clock::now()); }

std::string RandomSuffix() {
  std::array<std::byte, 4> bytes;
  GPUMIG_CHECK(getrandom(bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
  return ToHex(bytes);
}

}  // namespace gpumig
