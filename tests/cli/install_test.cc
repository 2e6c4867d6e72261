// cmake --install, and whether what lies there finds all it needs beside itself.
#include <fcntl.h>

#include "tests/support/gpumig_cli.h"

namespace gpumig {
namespace {

class InstallTest : public GpumigCliTest {
 protected:
  void SetUp() override {
    GpumigCliTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    // What tests or users set would hide that something is not found.
    for (const char* name : {"GPUMIG_INIT", "GPUMIG_LIBCUDA", "GPUMIG_PAGE_FILTER"}) unsetenv(name);
    const CliAnswer installed = Ask({CMAKE_PROGRAM, "--install", GPUMIG_BUILD, "--prefix", prefix()});
    ASSERT_EQ(installed.code, 0) << installed.output << installed.errors;
  }

  std::filesystem::path prefix() const { return directory() / "prefix"; }
  CliAnswer Installed(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), {prefix() / "bin" / "gpumig", "--json"});
    return Ask(arguments);
  }

  static std::string Replaced(std::string text, const std::string& what, const std::string& with) {
    const std::size_t at = text.find(what);
    EXPECT_NE(at, std::string::npos) << what;
    return at == std::string::npos ? text : text.replace(at, what.size(), with);
  }
};

TEST_F(InstallTest, TheInstalledProgramsRunCheckpointAndRestoreAWorkload) {
  const CliAnswer doctor = Installed({"doctor"});
  ASSERT_EQ(doctor.code, 0) << doctor.output;
  EXPECT_EQ(doctor.json["able"], true);

  const auto log = directory() / "count";
  const CliAnswer run = Installed({"run", "--name", "counter", "--", COUNTER, log, "2", "8"});
  ASSERT_EQ(run.code, 0) << run.errors;
  ASSERT_TRUE(GrowsOn(log));
  // Its process 1 is the installed one, not that of the build tree.
  std::set<std::string> inits;
  const auto processes = ListProcesses();
  ASSERT_THAT(processes, IsOk());
  for (const ProcessStat& stat : *processes) {
    std::error_code ignored;
    if (stat.command == "gpumig-init")
      inits.insert(std::filesystem::read_symlink(fmt::format("/proc/{}/exe", stat.pid), ignored));
  }
  EXPECT_TRUE(std::any_of(inits.begin(), inits.end(), [&](const std::string& exe) {
    return exe.starts_with(prefix().string());
  })) << fmt::format("{}", fmt::join(inits, " "));

  const auto image = directory() / "image";
  const CliAnswer checkpoint = Installed({"checkpoint", "counter", "--image", image});
  ASSERT_EQ(checkpoint.code, 0) << checkpoint.errors;
  const CliAnswer restore = Installed({"restore", image});
  ASSERT_EQ(restore.code, 0) << restore.errors;
  EXPECT_TRUE(GrowsOn(log));
  EXPECT_TRUE(CountedByOne(log));
}

TEST_F(InstallTest, AJobFindsTheInstalledSoftwareGpu) {
  const auto output = directory() / "output";
  const CliAnswer run = Installed({"run", "--gpu", "soft", "--output", output, "--", "sh", "-c",
                                   "echo libraries=$LD_LIBRARY_PATH=; exec sleep 1000"});
  ASSERT_EQ(run.code, 0) << run.errors;
  // It goes on, for others.
  if (const pid_t softgpud = run.json.value("started_softgpud", 0); softgpud > 0) kill(softgpud, SIGTERM);
  for (int i = 0; i < 5000 && Lines(output) == 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  const auto library = prefix() / LIBDIR / "gpumig" / "softgpu";
  EXPECT_NE(ReadTextFile(output)->find("libraries=" + library.string() + "="), std::string::npos)
      << *ReadTextFile(output);
  EXPECT_TRUE(std::filesystem::exists(library / "libcuda.so.1"));
  const CliAnswer daemon = Ask({prefix() / "bin" / "softgpud", "--help"});
  EXPECT_EQ(daemon.code, 0) << daemon.output << daemon.errors;
}

TEST_F(InstallTest, TheInstalledAgentStartsFromTheInstalledSample) {
  const auto authority = directory() / "ca";
  ASSERT_EQ(Installed({"certs", "init", authority}).code, 0);
  ASSERT_EQ(Installed({"certs", "issue", authority, "node-a", "--out", directory() / "identity"}).code, 0);
  const auto sample = ReadTextFile(prefix() / DOCDIR / "gpumigd.toml");
  ASSERT_THAT(sample, IsOk());
  std::string config = Replaced(*sample, "10.0.0.1:7443", "127.0.0.1:17449");
  config = Replaced(config, "/etc/gpumig/identity", directory() / "identity");
  config = Replaced(config, "\"/run/gpumig\"", fmt::format("\"{}\"", (directory() / "run").string()));
  config = Replaced(config, "\"/var/lib/gpumig\"", fmt::format("\"{}\"", (directory() / "state").string()));
  ASSERT_THAT(WriteFileDurably(directory() / "gpumigd.toml", config), IsOk());

  const auto log = directory() / "gpumigd.log";
  StartPlain({prefix() / "bin" / "gpumigd", "--config", directory() / "gpumigd.toml"}, log);
  CliAnswer status;
  for (int i = 0; i < 500 && status.code != 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    status = Installed({"status"});
  }
  ASSERT_EQ(status.code, 0) << status.errors << *ReadTextFile(log);
  EXPECT_EQ(status.json["node"], "node-a");
}

}  // namespace
}  // namespace gpumig
