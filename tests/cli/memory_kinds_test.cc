// Every kind of memory that a process may have, byte by byte, by both ways that host memory travels.
#include "tests/support/two_nodes.h"

namespace gpumig {
namespace {

// More of the host's pool of huge pages, as long as this lives.
class HugetlbPages {
 public:
  explicit HugetlbPages(std::uint64_t count) : wanted_(count), before_(Pool()) { SetPool(before_ + count); }
  HugetlbPages(const HugetlbPages&) = delete;
  HugetlbPages& operator=(const HugetlbPages&) = delete;
  ~HugetlbPages() { SetPool(before_); }
  bool are_there() const { return Pool() >= before_ + wanted_; }

 private:
  static constexpr const char* kPool = "/proc/sys/vm/nr_hugepages";
  static std::uint64_t Pool() {
    const auto text = ReadTextFile(kPool);
    return text ? std::strtoull(text->c_str(), nullptr, 10) : 0;
  }
  static void SetPool(std::uint64_t count) { std::ofstream(kPool) << count << std::endl; }

  std::uint64_t wanted_;
  std::uint64_t before_;
};

class MemoryKindsTest : public TwoNodesTest, public testing::WithParamInterface<std::string> {
 protected:
  // Agents and commands take it from here.
  void SetUp() override {
    if (GetParam() == "unfiltered") setenv("GPUMIG_PAGE_FILTER", "off", 1);
    TwoNodesTest::SetUp();
  }
  void TearDown() override {
    TwoNodesTest::TearDown();
    unsetenv("GPUMIG_PAGE_FILTER");
  }

  std::string HostPath() const { return GetParam() == "criu" ? "--host-path=criu" : "--host-path=direct"; }
  void ExpectPath(const Json& report) const {
    const std::uint64_t bytes = report.value("direct_bytes", std::uint64_t{0});
    if (GetParam() == "criu") {
      EXPECT_EQ(bytes, 0u);
    } else {
      // All that is plain; not what two processes share.
      EXPECT_GT(bytes, 20u << 20);
      EXPECT_LT(bytes, 32u << 20);
    }
  }
  // Pages that a child has inherited are in memory once.
  static std::uint64_t SharedBytes(pid_t pid) {
    const std::string rollup = *ReadTextFile(fmt::format("/proc/{}/smaps_rollup", pid));
    std::uint64_t kilobytes = 0;
    for (const char* key : {"\nShared_Dirty:", "\nShared_Clean:"})
      kilobytes += std::strtoull(rollup.c_str() + rollup.find(key) + std::strlen(key), nullptr, 10);
    return kilobytes << 10;
  }

  std::filesystem::path log_;
};

TEST_P(MemoryKindsTest, AllOfItComesBackFromAnImage) {
  log_ = directory() / "checks";
  ASSERT_EQ(Gpumig({"run", "--name", "memories", "--", MEMORIES, log_}).code, 0);
  ASSERT_TRUE(GrowsOn(log_));
  const auto image = directory() / "image";
  const CliAnswer checkpoint = Gpumig({"checkpoint", "memories", "--image", image, HostPath()});
  ASSERT_EQ(checkpoint.code, 0) << checkpoint.errors;
  ExpectPath(checkpoint.json);
  EXPECT_EQ(Gpumig({"verify", "--full", image}).code, 0);
  const CliAnswer restored = Gpumig({"restore", image});
  ASSERT_EQ(restored.code, 0) << restored.errors;
  EXPECT_TRUE(GrowsOn(log_));
  EXPECT_TRUE(CountedByOne(log_));
  EXPECT_GT(SharedBytes(restored.json["pid"]), 7u << 20);
}

// Of the host's pool: CRIU captures it, by either path.
TEST_P(MemoryKindsTest, HugetlbPagesComeBackFromAnImage) {
  const HugetlbPages pages(8);
  GPUMIG_NEEDS("hugetlb", pages.are_there(), "this host gives no huge pages");
  log_ = directory() / "checks";
  ASSERT_EQ(Gpumig({"run", "--name", "memories", "--", MEMORIES, log_, "hugetlb"}).code, 0);
  ASSERT_TRUE(GrowsOn(log_));
  const auto image = directory() / "image";
  for (const char* name : {"memories", "again"}) {
    std::filesystem::remove_all(image);
    const CliAnswer checkpoint = Gpumig({"checkpoint", name, "--image", image, HostPath()});
    ASSERT_EQ(checkpoint.code, 0) << checkpoint.errors;
    const CliAnswer restored = Gpumig({"restore", image, "--name", "again"});
    ASSERT_EQ(restored.code, 0) << restored.errors;
    EXPECT_TRUE(GrowsOn(log_));
  }
  EXPECT_TRUE(CountedByOne(log_));
  kill(Gpumig({"ps"}).json["workloads"][0]["pid"].get<pid_t>(), SIGKILL);
}

TEST_P(MemoryKindsTest, AllOfItIsInAnImageOfOneThatRunsOn) {
  log_ = directory() / "checks";
  ASSERT_EQ(Gpumig({"run", "--name", "memories", "--", MEMORIES, log_}).code, 0);
  ASSERT_TRUE(GrowsOn(log_));
  const auto image = directory() / "image";
  const CliAnswer checkpoint = Gpumig({"checkpoint", "memories", "--leave-running", "--image", image, HostPath()});
  ASSERT_EQ(checkpoint.code, 0) << checkpoint.errors;
  ExpectPath(checkpoint.json);
  EXPECT_TRUE(GrowsOn(log_));
  EXPECT_TRUE(CountedByOne(log_));
  const std::uint64_t before = Lines(log_);
  ASSERT_EQ(Gpumig({"restore", image, "--name", "again"}).code, 0);
  // Both check all they have, and write to one log.
  EXPECT_TRUE(GrowsOn(log_, 20));
  EXPECT_GT(Lines(log_), before);
  const std::string text = *ReadTextFile(log_);
  EXPECT_EQ(text.find_first_not_of("0123456789\n"), std::string::npos) << text.substr(text.size() - 40);
}

TEST_P(MemoryKindsTest, AllOfItMovesToAnotherNode) {
  Up();
  log_ = directory() / "checks";
  ASSERT_EQ(GpumigOn("node-a", {"run", "--name", "memories", "--", MEMORIES, log_}).code, 0);
  ASSERT_TRUE(GrowsOn(log_));
  for (const auto& [from, to] : {std::pair("node-a", "node-b"), std::pair("node-b", "node-a")}) {
    const CliAnswer moved = Migrate(from, "memories", to, {HostPath()});
    ASSERT_EQ(moved.code, 0) << moved.errors;
    ExpectPath(moved.json);
    EXPECT_TRUE(GrowsOn(log_));
  }
  EXPECT_TRUE(CountedByOne(log_));
}

INSTANTIATE_TEST_SUITE_P(ByEachPath, MemoryKindsTest, testing::Values("direct", "unfiltered", "criu"),
                         [](const auto& path) { return path.param; });

}  // namespace
}  // namespace gpumig
