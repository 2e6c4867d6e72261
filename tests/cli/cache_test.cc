// A job that comes to a node again is not sent again, and whatever happens to what the node kept of it costs the job
// nothing.
#include "tests/support/two_nodes.h"

namespace gpumig {
namespace {

constexpr const char* kMib = "48";
constexpr std::uint64_t kMost = std::uint64_t{40} << 20;
// Some pieces of 4 MiB hold pages that the job writes to, and are new each time.
constexpr std::uint64_t kLittle = std::uint64_t{16} << 20;
constexpr std::uint64_t kKnown = std::uint64_t{32} << 20;

class CacheTest : public TwoNodesTest {
 protected:
  // Whatever room the machine's disk has.
  void UpAnyhow() { Up({"--setting", "cache_reserve_bytes = 0"}); }

  // Gives the report.
  Json Move(const std::string& from, const std::string& to) {
    const CliAnswer moved = Migrate(from, "counter", to);
    EXPECT_EQ(moved.code, 0) << moved.errors;
    ExpectCounterCountsOn();
    return moved.json;
  }
  Json CacheOf(const std::string& node) const {
    const CliAnswer list = GpumigOn(node, {"cache", "list"});
    EXPECT_EQ(list.code, 0) << list.errors;
    return list.json;
  }
  // An image is kept once its migration is closed, in the background.
  void AwaitKept(const std::string& node) const {
    for (int i = 0; i < 1200; ++i) {
      if (CacheOf(node).value("kept_bytes", std::uint64_t{0}) >= kMost) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    FAIL() << node << " kept nothing";
  }
  std::filesystem::path State(const std::string& node) const { return nodes_ / node / "state"; }
};

TEST_F(CacheTest, AJobThatComesBackIsSentOnce) {
  UpAnyhow();
  StartCounter("node-a", kMib);
  const Json first = Move("node-a", "node-b");
  EXPECT_GE(first.value("sent_bytes", std::uint64_t{0}), kMost);
  EXPECT_EQ(first.value("known_bytes", std::uint64_t{1}), 0u);
  AwaitKept("node-b");
  Move("node-b", "node-a");
  AwaitKept("node-a");
  std::string from = "node-a";
  std::string to = "node-b";
  for (int move = 3; move <= 4; ++move) {
    SCOPED_TRACE(move);
    const Json again = Move(from, to);
    EXPECT_LE(again.value("sent_bytes", kMost), kLittle);
    EXPECT_GE(again.value("known_bytes", std::uint64_t{0}), kKnown);
    std::swap(from, to);
  }
}

TEST_F(CacheTest, ADamagedCacheCostsTheJobNothing) {
  UpAnyhow();
  StartCounter("node-a", kMib);
  Move("node-a", "node-b");
  AwaitKept("node-b");
  Move("node-b", "node-a");
  const Json kept = CacheOf("node-b")["items"];
  ASSERT_EQ(kept.size(), 1u) << kept;
  const std::filesystem::path pack = State("node-b") / "cache" / "kept" / kept[0].value("id", "") / "chunks.pack";
  {
    std::fstream file(pack, std::ios::in | std::ios::out | std::ios::binary);
    const auto size = static_cast<std::streamoff>(std::filesystem::file_size(pack));
    for (std::streamoff at = 2048; at < size; at += 4096) {
      file.seekg(at);
      const int byte = file.get();
      file.seekp(at);
      file.put(static_cast<char>(byte ^ 1));
    }
    ASSERT_TRUE(file.good());
  }
  std::filesystem::create_directories(State("node-b") / "cache" / "added");
  std::ofstream(State("node-b") / "cache" / "added" / "0123456789abcdef") << "no index";

  const Json again = Move("node-a", "node-b");
  EXPECT_GE(again.value("sent_bytes", std::uint64_t{0}), kMost);
  EXPECT_LE(again.value("known_bytes", kMost), kLittle);
  EXPECT_NE(AgentLog("node-b").find("is of no use"), std::string::npos);
  EXPECT_NE(AgentLog("node-b").find("add its file again"), std::string::npos);
}

TEST_F(CacheTest, AnImageThatWasAddedIsNotSentUnlessItIsGone) {
  Up({"--setting", "cache_bytes = 0"});
  StartCounter("node-a", kMib);
  const std::filesystem::path image = directory() / "image";
  const CliAnswer checkpoint = GpumigOn("node-a", {"checkpoint", "counter", "--leave-running", "--image", image});
  ASSERT_EQ(checkpoint.code, 0) << checkpoint.errors;
  for (const char* node : {"node-a", "node-b"}) {
    const CliAnswer added = GpumigOn(node, {"cache", "add", image});
    ASSERT_EQ(added.code, 0) << added.errors;
    EXPECT_EQ(added.json["items"][0]["kind"], "image");
  }
  const Json moved = Move("node-a", "node-b");
  EXPECT_LE(moved.value("sent_bytes", kMost), kLittle);
  EXPECT_GE(moved.value("known_bytes", std::uint64_t{0}), kKnown);
  EXPECT_EQ(CacheOf("node-b").value("kept_bytes", std::uint64_t{1}), 0u) << "none is to be kept";

  std::filesystem::remove_all(image);
  const Json back = Move("node-b", "node-a");
  EXPECT_GE(back.value("sent_bytes", std::uint64_t{0}), kMost);
  EXPECT_EQ(back.value("known_bytes", std::uint64_t{1}), 0u);
  EXPECT_EQ(CacheOf("node-a")["items"].size(), 0u) << "what is gone is forgotten";
  EXPECT_EQ(GpumigOn("node-b", {"cache", "remove", image}).code, 0);
  EXPECT_EQ(CacheOf("node-b")["items"].size(), 0u);
  EXPECT_EQ(GpumigOn("node-b", {"cache", "remove", image}).result(), "refused");
}

}  // namespace
}  // namespace gpumig
