// What a user gets for bad input and bad luck between two nodes: an error that names the cause and the next step, the
// documented exit code, the job alive where it was, and nothing left behind.
#include <signal.h>

#include <fstream>

#include "tests/support/two_nodes.h"

namespace gpumig {
namespace {

class MigrateRefusalTest : public TwoNodesTest {
 protected:
  // Restarts the agent of node-b with another identity.
  void ChangeIdentity(const std::string& node, const std::vector<std::string>& issue) {
    ASSERT_EQ(TwoNodes({"agent", nodes_, node, "stop"}).code, 0);
    std::filesystem::remove_all(nodes_ / node / "identity");
    std::vector<std::string> arguments = {"certs", "issue"};
    arguments.insert(arguments.end(), issue.begin(), issue.end());
    arguments.insert(arguments.end(), {"--out", nodes_ / node / "identity"});
    const CliAnswer issued = Gpumig(arguments);
    ASSERT_EQ(issued.code, 0) << issued.errors;
    ASSERT_EQ(TwoNodes({"agent", nodes_, node, "start"}).code, 0);
  }
  // Refused before the freeze: the job has not stood still for a moment.
  void ExpectRefused(const CliAnswer& answer, const std::string& code, const std::string& text) {
    EXPECT_EQ(answer.code, 3) << answer.errors;
    EXPECT_EQ(answer.result(), "refused");
    EXPECT_EQ(answer.json["error"]["code"], code) << answer.error();
    EXPECT_NE(answer.error().find(text), std::string::npos) << answer.error();
  }
};

TEST_F(MigrateRefusalTest, ATargetThatCannotBeReachedIsNamed) {
  Up();
  StartCounter("node-a");
  ASSERT_EQ(TwoNodes({"agent", nodes_, "node-b", "stop"}).code, 0);
  const CliAnswer answer = Migrate("node-a", "counter", "node-b");
  ExpectRefused(answer, "unavailable", "node-b");
  EXPECT_NE(answer.error().find("refused"), std::string::npos) << answer.error();
  ExpectCounterCountsOn();
}

TEST_F(MigrateRefusalTest, ANodeThatIsNoPeerIsNamed) {
  Up();
  StartCounter("node-a");
  const CliAnswer answer = Migrate("node-a", "counter", "node-z");
  ExpectRefused(answer, "not_found", "node-z");
  EXPECT_NE(answer.next_step().find("peers"), std::string::npos) << answer.next_step();
  ExpectCounterCountsOn();
}

TEST_F(MigrateRefusalTest, ATargetWithoutTheMemoryIsNotAsked) {
  Up();
  StartCounter("node-a");
  const auto meminfo = directory() / "meminfo";
  std::ofstream(meminfo) << "MemTotal: 4096 kB\nMemFree: 1024 kB\nMemAvailable: 1024 kB\n";
  ASSERT_EQ(On("node-b", {"mount", "--bind", meminfo, "/proc/meminfo"}).code, 0);
  for (const char* option : {"--host-path=direct", "--live"}) {
    const CliAnswer answer = Migrate("node-a", "counter", "node-b", {option});
    ExpectRefused(answer, "resource_exhausted", "1 MiB are available here");
    EXPECT_NE(answer.error().find("node node-b"), std::string::npos) << answer.error();
    EXPECT_NE(answer.next_step().find("another node"), std::string::npos) << answer.next_step();
  }
  ExpectCounterCountsOn();
}

TEST_F(MigrateRefusalTest, WithoutAnAgentTheUserIsToldHowToStartOne) {
  const CliAnswer answer = Gpumig({"migrate", "counter", "--to", "node-b"});
  ExpectRefused(answer, "unavailable", "no agent runs here");
  EXPECT_NE(answer.next_step().find("gpumigd --config"), std::string::npos) << answer.next_step();
}

TEST_F(MigrateRefusalTest, ATargetOfAnotherAuthorityIsNotTrusted) {
  Up();
  StartCounter("node-a");
  ASSERT_EQ(Gpumig({"certs", "init", directory() / "other-ca"}).code, 0);
  ChangeIdentity("node-b", {directory() / "other-ca", "node-b"});
  ExpectRefused(Migrate("node-a", "counter", "node-b"), "untrusted", "node-b");
  ExpectCounterCountsOn();
}

TEST_F(MigrateRefusalTest, ATargetThatIsAnotherNodeIsNotTrusted) {
  Up();
  StartCounter("node-a");
  ASSERT_EQ(TwoNodes({"agent", nodes_, "node-b", "stop"}).code, 0);
  // node-c's agent, at node-b's address.
  std::ifstream in(nodes_ / "node-b" / "gpumigd.toml");
  std::string config((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  config.replace(config.find("node = \"node-b\""), 15, "node = \"node-c\"");
  std::ofstream(nodes_ / "node-b" / "gpumigd.toml") << config;
  ChangeIdentity("node-b", {nodes_ / "ca", "node-c"});
  ExpectRefused(Migrate("node-a", "counter", "node-b"), "untrusted", "node-b");
  ExpectCounterCountsOn();
}

// An agent of before format 2 asks without a format; curl is one here, with node-a's identity.
TEST_F(MigrateRefusalTest, ANodeOfAnotherImageFormatIsRefusedByNumber) {
  Up();
  const std::filesystem::path identity = nodes_ / "node-a" / "identity";
  std::ifstream in(nodes_ / "node-a" / "gpumigd.toml");
  const std::string config((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const std::size_t peer = config.find("address = \"") + 11;
  const std::string address = config.substr(peer, config.find('"', peer) - peer);
  const std::string port = address.substr(address.find(':') + 1);
  const auto ask = [&](const std::string& format) {
    const std::string question = "{" + format + R"("name":"counter","uses_gpu":false,"gpus":[],"host_bytes":4096})";
    return On("node-a", {"curl", "--silent", "--show-error", "--noproxy", "*", "--cert", identity / "node.crt", "--key",
                         identity / "node.key", "--cacert", identity / "ca.crt", "--connect-to",
                         "node-b.gpumig:" + port + ":" + address, "--header", "Content-Type: application/json",
                         "--data", question, "https://node-b.gpumig:" + port + "/v1/preflight"});
  };
  const CliAnswer same = ask(R"("image_format":2,)");
  EXPECT_EQ(same.json.value("image_format", 0), 2) << same.output << same.errors;
  for (const auto& [format, number] : {std::pair("", "1"), std::pair(R"("image_format":3,)", "3")}) {
    const CliAnswer other = ask(format);
    EXPECT_EQ(other.json.value("code", ""), "unsupported") << other.output << other.errors;
    EXPECT_EQ(other.json.value("message", ""),
              std::string("node node-a speaks image format ") + number + ", node node-b image format 2");
    EXPECT_NE(other.json.value("next_step", "").find("one version of gpumig on both"), std::string::npos);
  }
}

TEST_F(MigrateRefusalTest, AnExpiredCertificateIsSaidToHaveExpired) {
  Up();
  StartCounter("node-a");
  ASSERT_EQ(TwoNodes({"agent", nodes_, "node-b", "stop"}).code, 0);
  std::filesystem::remove_all(nodes_ / "node-b" / "identity");
  const CliAnswer issued =
      Gpumig({"certs", "issue", nodes_ / "ca", "node-b", "--out", nodes_ / "node-b" / "identity", "--seconds", "3"});
  ASSERT_EQ(issued.code, 0) << issued.errors;
  ASSERT_EQ(TwoNodes({"agent", nodes_, "node-b", "start"}).code, 0);
  std::this_thread::sleep_for(std::chrono::seconds(4));  // It is the certificate's lifetime, not a race.
  ExpectRefused(Migrate("node-a", "counter", "node-b"), "untrusted", "expired");
  ExpectCounterCountsOn();
}

TEST_F(MigrateRefusalTest, AGpuJobIsNotSentToANodeWithoutGpu) {
  Up({"--without-gpu", "node-b"});
  const auto log = directory() / "trainer.log";
  StartTrainer("node-a", "trainer", log, 100000);
  ASSERT_TRUE(Reaches(log, 10));
  const CliAnswer answer = Migrate("node-a", "trainer", "node-b");
  EXPECT_EQ(answer.code, 3) << answer.errors;
  EXPECT_NE(answer.error().find("node-b"), std::string::npos) << answer.error();
  EXPECT_NE(answer.error().find("GPU"), std::string::npos) << answer.error();
  EXPECT_TRUE(GrowsOn(log));
}

TEST_F(MigrateRefusalTest, ATargetGpuThatIsTooFullCostsTheJobOnlyThePause) {
  Up({"--gpu-mib", "200"});
  const auto big = directory() / "big.log";
  const auto log = directory() / "trainer.log";
  StartTrainer("node-b", "big", big, 100000, 120);
  StartTrainer("node-a", "trainer", log, 100000, 120);
  ASSERT_TRUE(Reaches(big, 2));
  ASSERT_TRUE(Reaches(log, 2));
  const CliAnswer answer = Migrate("node-a", "trainer", "node-b");
  EXPECT_EQ(answer.code, 4) << answer.errors;
  EXPECT_EQ(answer.result(), "failed");
  EXPECT_NE(answer.error().find("none has so much free"), std::string::npos) << answer.error();
  EXPECT_TRUE(GrowsOn(log));
  EXPECT_TRUE(GrowsOn(big));
}

TEST_F(MigrateRefusalTest, AKernelThatDoesNotEndTimesOutAndTheJobRunsOn) {
  Up();
  const auto log = directory() / "endless.log";
  const CliAnswer run = GpumigOn("node-a", {"run", "--name", "endless", "--gpu", "soft", "--", ENDLESS, log});
  ASSERT_EQ(run.code, 0) << run.errors;
  ASSERT_TRUE(GrowsOn(log));
  for (const bool migrate : {false, true}) {
    SCOPED_TRACE(migrate);
    const CliAnswer answer = migrate ? Migrate("node-a", "endless", "node-b", {"--lock-timeout-ms", "300"})
                                     : GpumigOn("node-a", {"checkpoint", "endless", "--image", directory() / "image",
                                                           "--lock-timeout-ms", "300"});
    EXPECT_EQ(answer.code, 4) << answer.errors;
    EXPECT_EQ(answer.json["error"]["code"], "deadline_exceeded") << answer.error();
    EXPECT_TRUE(GrowsOn(log));
    const CliAnswer listed = GpumigOn("node-a", {"ps"});
    EXPECT_EQ(listed.output.find("locked"), std::string::npos) << listed.output;
  }
}

TEST_F(MigrateRefusalTest, ATargetDiskWithoutRoomIsRefusedAndTheJobRunsOn) {
  Up();
  StartCounter("node-a", "32");
  ASSERT_EQ(
      On("node-b",
         {"sh", "-c", "mkdir -p /var/lib/gpumig/incoming && mount -t tmpfs -o size=4m tmpfs /var/lib/gpumig/incoming"})
          .code,
      0);
  const CliAnswer answer = Migrate("node-a", "counter", "node-b");
  EXPECT_EQ(answer.code, 4) << answer.errors;
  EXPECT_EQ(answer.json["error"]["code"], "no_space") << answer.error();
  ExpectCounterCountsOn();
}

TEST_F(MigrateRefusalTest, ANameThatIsTakenAtTheTargetIsRefused) {
  Up();
  StartCounter("node-a");
  ASSERT_EQ(GpumigOn("node-b", {"run", "--name", "counter", "--", "sleep", "1000"}).code, 0);
  ExpectRefused(Migrate("node-a", "counter", "node-b"), "already_exists", "counter");
  ExpectCounterCountsOn();
}

}  // namespace
}  // namespace gpumig
