// What a user gets for bad input and bad luck with one host: an error that names the cause and the next step, the
// documented exit code, the job alive, and nothing left behind.
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <fstream>

#include "tests/support/gpumig_cli.h"

namespace gpumig {
namespace {

class CheckpointRefusalTest : public GpumigCliTest {
 protected:
  void StartCounter() {
    log_ = directory() / "count";
    const CliAnswer run = Gpumig({"run", "--name", "counter", "--", COUNTER, log_, "2", "8"});
    ASSERT_EQ(run.code, 0) << run.errors;
    ASSERT_TRUE(GrowsOn(log_));
  }
  // As it was before, and still ours.
  void ExpectCounterRunsOn() {
    EXPECT_TRUE(GrowsOn(log_));
    EXPECT_TRUE(CountedByOne(log_));
  }
  static int ConnectTo(const std::filesystem::path& socket_path) {
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, socket_path.c_str(), sizeof(address.sun_path) - 1);
    EXPECT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0) << strerror(errno);
    return fd;
  }
  std::filesystem::path MakeImage() {
    StartCounter();
    const auto image = directory() / "image";
    const CliAnswer made = Gpumig({"checkpoint", "counter", "--image", image});
    EXPECT_EQ(made.code, 0) << made.errors;
    return image;
  }

  std::filesystem::path log_;
};

TEST_F(CheckpointRefusalTest, APidThatIsNotThereIsRefused) {
  const CliAnswer answer = Gpumig({"checkpoint", "4194000", "--image", directory() / "image"});
  EXPECT_EQ(answer.code, 3);
  EXPECT_EQ(answer.result(), "refused");
  EXPECT_NE(answer.error().find("no process 4194000"), std::string::npos) << answer.error();
  EXPECT_FALSE(std::filesystem::exists(directory() / "image"));
}

TEST_F(CheckpointRefusalTest, ANameThatNobodyHasIsRefusedAndSaysHowToListThem) {
  const CliAnswer answer = Gpumig({"checkpoint", "nobody", "--image", directory() / "image"});
  EXPECT_EQ(answer.code, 3);
  EXPECT_NE(answer.next_step().find("gpumig ps"), std::string::npos) << answer.next_step();
}

TEST_F(CheckpointRefusalTest, AnImageDirectoryThatHoldsSomethingIsRefused) {
  StartCounter();
  const auto image = directory() / "image";
  std::filesystem::create_directory(image);
  std::ofstream(image / "precious") << "do not touch";
  const CliAnswer answer = Gpumig({"checkpoint", "counter", "--image", image});
  EXPECT_EQ(answer.code, 3);
  EXPECT_NE(answer.error().find("not empty"), std::string::npos) << answer.error();
  EXPECT_EQ(*ReadTextFile(image / "precious"), "do not touch");
  ExpectCounterRunsOn();
}

TEST_F(CheckpointRefusalTest, WithoutRootNothingIsTriedAndTheReasonIsSaid) {
  std::filesystem::permissions(directory(), std::filesystem::perms::all);
  const CliAnswer answer = Ask({"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", GPUMIG_PROGRAM, "--json",
                                "checkpoint", "1", "--image", "/tmp/x"});
  EXPECT_EQ(answer.code, 3);
  EXPECT_NE(answer.error().find("needs root"), std::string::npos) << answer.error() << answer.errors;
  EXPECT_NE(answer.next_step().find("sudo"), std::string::npos);
}

TEST_F(CheckpointRefusalTest, AnIoUringIsFoundBeforeAnythingIsStopped) {
  const auto log = directory() / "count";
  const CliAnswer run = Gpumig({"run", "--name", "uring", "--", AWKWARD, "io_uring", log});
  ASSERT_EQ(run.code, 0) << run.errors;
  for (int i = 0; i < 500 && Lines(log) == 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  GPUMIG_NEEDS("io_uring", Lines(log) > 0, "this kernel gives no io_uring");
  const CliAnswer answer = Gpumig({"checkpoint", "uring", "--image", directory() / "image"});
  EXPECT_EQ(answer.code, 3);
  EXPECT_NE(answer.error().find("io_uring"), std::string::npos) << answer.error();
  EXPECT_NE(answer.next_step().find("without io_uring"), std::string::npos) << answer.next_step();
  EXPECT_TRUE(GrowsOn(log));
  EXPECT_FALSE(std::filesystem::exists(directory() / "image"));
}

TEST_F(CheckpointRefusalTest, MemoryThatCriuCannotCaptureIsNamedBeforeAnythingIsStopped) {
  for (const auto& [kind, what, cure] :
       {std::tuple("userfaultfd", "by a userfaultfd (descriptor", "without userfaultfd"),
        std::tuple("sysv", "System V shared memory", "POSIX shared memory")}) {
    SCOPED_TRACE(kind);
    const auto log = directory() / kind;
    ASSERT_EQ(Gpumig({"run", "--name", kind, "--", AWKWARD, kind, log}).code, 0);
    ASSERT_TRUE(GrowsOn(log));
    const CliAnswer answer = Gpumig({"checkpoint", kind, "--image", directory() / "image"});
    EXPECT_EQ(answer.code, 3);
    EXPECT_NE(answer.error().find(what), std::string::npos) << answer.error();
    EXPECT_NE(answer.next_step().find(cure), std::string::npos) << answer.next_step();
    // What cannot be captured must be let go all the same, had it been frozen before anybody knew.
    EXPECT_EQ(Gpumig({"resume", kind}).code, 0);
    EXPECT_TRUE(GrowsOn(log));
    EXPECT_FALSE(std::filesystem::exists(directory() / "image"));
  }
}

TEST_F(CheckpointRefusalTest, WhatCriuAloneFindsIsSaidInItsWordsAndTheJobRunsOn) {
  const auto log = directory() / "count";
  const CliAnswer run = Gpumig({"run", "--name", "tied", "--", AWKWARD, "tied", log});
  ASSERT_EQ(run.code, 0) << run.errors;
  ASSERT_TRUE(GrowsOn(log));
  const pid_t pid = run.json["pid"].get<pid_t>();
  // Half of a connection whose other end is outside of the workload: us.
  const int outside = ConnectTo(directory() / "count.sock");
  ASSERT_TRUE(GrowsOn(log));
  const CliAnswer answer = Gpumig({"checkpoint", std::to_string(pid), "--image", directory() / "image"});
  close(outside);
  EXPECT_EQ(answer.code, 4);
  EXPECT_EQ(answer.result(), "failed");
  EXPECT_NE(answer.error().find("criu dump: "), std::string::npos) << answer.error();
  EXPECT_NE(answer.error().find("External socket"), std::string::npos) << answer.error();
  EXPECT_NE(answer.next_step().find("dump.log"), std::string::npos) << answer.next_step();
  EXPECT_TRUE(GrowsOn(log));
  EXPECT_TRUE(CountedByOne(log));
  EXPECT_FALSE(std::filesystem::exists(directory() / "image"));
}

TEST_F(CheckpointRefusalTest, AProcessThatEndsWhileItIsCapturedIsSaidToHaveEnded) {
  // Ends at some point of each of these; whichever it is, the answer is one of three, and nothing is left.
  for (int delay_ms = 150; delay_ms <= 330; delay_ms += 30) {
    SCOPED_TRACE(delay_ms);
    const auto log = directory() / fmt::format("log-{}", delay_ms);
    const pid_t pid = StartPlain({AWKWARD, "short", log});
    std::this_thread::sleep_for(std::chrono::milliseconds(delay_ms));
    const auto image = directory() / fmt::format("image-{}", delay_ms);
    const CliAnswer answer = Gpumig({"checkpoint", std::to_string(pid), "--image", image});
    if (answer.code == 0) {
      EXPECT_EQ(Gpumig({"verify", "--full", image}).code, 0);
    } else {
      EXPECT_TRUE(answer.code == 3 || answer.code == 4) << answer.code << answer.error();
      EXPECT_TRUE(answer.error().find("ended") != std::string::npos ||
                  answer.error().find("no process") != std::string::npos)
          << answer.error();
      EXPECT_FALSE(std::filesystem::exists(image / "manifest"));
    }
    children_.clear();
    EXPECT_TRUE(NothingIsLeft());
  }
}

TEST_F(CheckpointRefusalTest, AFullDiskCostsTheJobNothing) {
  StartCounter();
  const auto disk = directory() / "disk";
  std::filesystem::create_directory(disk);
  ASSERT_EQ(mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=2m"), 0);
  const CliAnswer answer = Gpumig({"checkpoint", "counter", "--image", disk / "image"});
  EXPECT_EQ(answer.code, 4) << answer.errors;
  EXPECT_EQ(answer.json["error"]["code"], "no_space") << answer.error();
  EXPECT_NE(answer.error().find((disk / "image").string()), std::string::npos) << answer.error();
  EXPECT_FALSE(std::filesystem::exists(disk / "image" / "manifest"));
  ExpectCounterRunsOn();
  EXPECT_EQ(umount(disk.c_str()), 0);
}

// Found when it runs again already, back where it came from.
TEST_F(CheckpointRefusalTest, AFullDiskCostsAProcessThatGpumigDidNotStartNothing) {
  const auto log = directory() / "count";
  const auto disk = directory() / "disk";
  std::filesystem::create_directory(disk);
  const pid_t pid = StartPlain({COUNTER, log, "2", "16"});
  ASSERT_TRUE(GrowsOn(log));
  ASSERT_EQ(mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=2m"), 0);
  for (const bool live : {false, true}) {
    std::vector<std::string> command = {"checkpoint", std::to_string(pid), "--leave-running", "--image",
                                        disk / "image"};
    if (live) command.emplace_back("--live");
    const CliAnswer answer = Gpumig(command);
    EXPECT_EQ(answer.code, 4) << answer.errors;
    EXPECT_EQ(answer.json["error"]["code"], "no_space") << answer.error();
    EXPECT_TRUE(GrowsOn(log));
    EXPECT_TRUE(NothingIsLeft());
  }
  EXPECT_TRUE(CountedByOne(log));
  EXPECT_EQ(umount(disk.c_str()), 0);
}

TEST_F(CheckpointRefusalTest, AStagingDirectoryWithoutRoomCostsTheJobNothing) {
  StartCounter();
  const auto disk = directory() / "staging";
  std::filesystem::create_directory(disk);
  ASSERT_EQ(mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=64k"), 0);
  const auto checkpoint = [&](const std::string& option) {
    return Ask({"/usr/bin/env", "GPUMIG_STAGING_DIR=" + disk.string(), GPUMIG_PROGRAM, "--json", "checkpoint",
                "counter", "--image", directory() / "image", option});
  };
  // These put the whole memory there, and can know beforehand that it does not fit.
  for (const char* option : {"--leave-running", "--host-path=criu"}) {
    SCOPED_TRACE(option);
    const CliAnswer answer = checkpoint(option);
    EXPECT_EQ(answer.code, 3);
    EXPECT_NE(answer.error().find("MiB free"), std::string::npos) << answer.error();
    ExpectCounterRunsOn();
  }
  // CRIU's own files are small, but not as small as that.
  const CliAnswer answer = checkpoint("--host-path=direct");
  EXPECT_EQ(answer.code, 4);
  EXPECT_EQ(answer.json["error"]["code"], "no_space") << answer.error();
  EXPECT_NE(answer.error().find(disk.string()), std::string::npos) << answer.error();
  ExpectCounterRunsOn();
  EXPECT_EQ(umount(disk.c_str()), 0);
}

TEST_F(CheckpointRefusalTest, ATruncatedImageIsNotRestored) {
  const auto image = MakeImage();
  std::filesystem::resize_file(image / "manifest", std::filesystem::file_size(image / "manifest") / 2);
  for (const char* command : {"restore", "verify", "inspect"}) {
    SCOPED_TRACE(command);
    const CliAnswer answer = Gpumig({command, image});
    EXPECT_EQ(answer.code, 7) << answer.error();
    EXPECT_EQ(answer.json["error"]["code"], "damaged");
  }
  EXPECT_TRUE(NothingIsLeft());
}

TEST_F(CheckpointRefusalTest, AFlippedBitInAChunkIsNamedAndNotRestored) {
  const auto image = MakeImage();
  std::filesystem::path victim;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(image / "chunks")) {
    if (entry.is_regular_file() && (victim.empty() || entry.file_size() > std::filesystem::file_size(victim)))
      victim = entry.path();
  }
  {
    std::fstream file(victim, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(2000);
    const char byte = static_cast<char>(file.get() ^ 0x10);
    file.seekp(2000);
    file.put(byte);
  }
  const CliAnswer verified = Gpumig({"verify", "--full", image});
  EXPECT_EQ(verified.code, 7);
  ASSERT_EQ(verified.json["damaged"].size(), 1u);
  EXPECT_EQ(verified.json["damaged"][0]["chunk"], victim.filename().string());
  const CliAnswer restored = Gpumig({"restore", image});
  EXPECT_EQ(restored.code, 7) << restored.error();
  EXPECT_NE(restored.error().find(victim.filename().string()), std::string::npos) << restored.error();
  EXPECT_TRUE(NothingIsLeft());
}

TEST_F(CheckpointRefusalTest, AnImageOfANewerFormatNamesBothVersions) {
  const auto image = MakeImage();
  {
    // The major version stands behind the eight bytes of magic; see docs/image_format.md.
    std::fstream file(image / "manifest", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(8);
    file.put(3);
  }
  const CliAnswer answer = Gpumig({"restore", image});
  EXPECT_EQ(answer.code, 3) << answer.error();
  EXPECT_NE(answer.error().find("3."), std::string::npos) << answer.error();
  EXPECT_NE(answer.error().find("2."), std::string::npos) << answer.error();
}

TEST_F(CheckpointRefusalTest, ANameThatIsTakenIsRefusedWithAWayOut) {
  StartCounter();
  const auto image = directory() / "image";
  ASSERT_EQ(Gpumig({"checkpoint", "counter", "--leave-running", "--image", image}).code, 0);
  const CliAnswer answer = Gpumig({"restore", image});
  EXPECT_EQ(answer.code, 3);
  EXPECT_NE(answer.next_step().find("--name"), std::string::npos);
  ExpectCounterRunsOn();
}

TEST_F(CheckpointRefusalTest, ACommandLineThatMakesNoSenseIsExitCodeTwo) {
  EXPECT_EQ(Gpumig({"checkpoint"}).code, 2);
  EXPECT_EQ(Gpumig({"fly", "away"}).code, 2);
}

}  // namespace
}  // namespace gpumig
