// CRIU's end of its page server protocol, played by hand, in the two forms that are known.
#include "core/host/page_server.h"

#include <sys/socket.h>

#include <cstring>
#include <future>

#include "core/base/file.h"
#include "core/host/pagemap_image.h"
#include "tests/support/matchers.h"

namespace gpumig {
namespace {

constexpr std::uint32_t kOpen2 = 4;
constexpr std::uint32_t kAdd = 6;
constexpr std::uint32_t kForceClose = 0x1024;
constexpr std::uint64_t kProcess = 1;
constexpr std::uint64_t kShared = 2;

class PageServerTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    directory_.emplace(std::move(*TemporaryDirectory::Create(testing::TempDir(), "page-server")));
    SocketPair pair = std::move(*MakeSocketPair(SOCK_STREAM));
    ours_ = std::move(pair.ours);
    served_ = std::async(std::launch::async, [this, socket = std::move(pair.theirs)]() mutable {
      return ServePages(std::move(socket), directory_->path());
    });
  }
  void TearDown() override {
    ours_.Reset();
    if (served_.valid()) served_.wait();
  }

  void Send(std::uint32_t command, std::uint32_t flags, std::uint64_t pages, std::uint64_t address, std::uint64_t id) {
    std::string record;
    const auto put = [&](const auto& value) { record.append(reinterpret_cast<const char*>(&value), sizeof(value)); };
    put(command | flags << 16);
    if (GetParam() == "4.1") {
      put(static_cast<std::uint32_t>(pages));
    } else {
      put(std::uint32_t{0xdeadbeef});  // padding: anything
      put(pages);
    }
    put(address);
    put(id);
    ASSERT_THAT(WriteAll(ours_.get(), record), IsOk());
  }
  void Open(std::uint64_t kind, std::uint64_t number) {
    Send(kOpen2, 0, 0, 0, number << 8 | kind);
    char has_parent = 1;
    ASSERT_EQ(recv(ours_.get(), &has_parent, 1, MSG_WAITALL), 1);
    EXPECT_EQ(has_parent, 0);
  }
  void Add(std::uint64_t id, std::uint64_t address, std::uint64_t pages, std::uint32_t flags = kPagePresent) {
    Send(kAdd, flags, pages, address, id);
    const std::string bytes(pages * kPageBytes, static_cast<char>('a' + pages % 26));
    ASSERT_THAT(WriteAll(ours_.get(), bytes), IsOk());
  }
  void Close() {
    Send(kForceClose, 0, 0, 0, 0);
    std::int32_t status = -1;
    ASSERT_EQ(recv(ours_.get(), &status, sizeof(status), MSG_WAITALL), static_cast<ssize_t>(sizeof(status)));
    EXPECT_EQ(status, 0);
  }

  std::optional<TemporaryDirectory> directory_;
  UniqueFd ours_;
  std::future<Result<DumpedPages>> served_;
};

TEST_P(PageServerTest, PagesOfProcessesAreListedAndRunsJoined) {
  Open(kProcess, 12);
  Add(12 << 8 | kProcess, 0x10000, 700);
  Add(12 << 8 | kProcess, 0x10000 + 700 * kPageBytes, 3, kPagePresent | kPageMayComeLater);
  Add(12 << 8 | kProcess, 0x7f0000000000, 1);
  Open(kProcess, 13);
  Close();
  const auto dumped = served_.get();
  ASSERT_THAT(dumped, IsOk());
  ASSERT_EQ(dumped->processes.size(), 2u);
  EXPECT_EQ(dumped->processes.at(12),
            (std::vector<MemoryRange>{{0x10000, 703 * kPageBytes}, {0x7f0000000000, kPageBytes}}));
  EXPECT_TRUE(dumped->processes.at(13).empty());
  EXPECT_TRUE(std::filesystem::is_empty(directory_->path()));
}

TEST_P(PageServerTest, PagesOfSharedMemoryAreWrittenAsCriuWould) {
  Open(kShared, 5);
  Add(5 << 8 | kShared, 0, 2);
  Add(5 << 8 | kShared, 0x8000, 300);
  Open(kProcess, 12);
  Close();
  const auto dumped = served_.get();
  ASSERT_THAT(dumped, IsOk());
  EXPECT_EQ(dumped->next_pages_id, 2u);
  const std::string pages = *ReadTextFile(directory_->path() / "pages-1.img");
  EXPECT_EQ(pages, std::string(2 * kPageBytes, 'c') + std::string(300 * kPageBytes, 'a' + 300 % 26));
  // Magic twice; {pages_id: 1}; {vaddr: 0, pages: 2, flags: present, pages: 2}; {vaddr: 0x8000, pages: 300, ...}.
  const std::string map = *ReadTextFile(directory_->path() / "pagemap-shmem-5.img");
  const std::string expected = std::string("\x19\x43\x56\x54\x25\x40\x08\x56", 8) +
                               std::string("\x02\0\0\0\x08\x01", 6) +
                               std::string("\x08\0\0\0\x08\0\x10\x02\x20\x04\x28\x02", 12) +
                               std::string("\x0c\0\0\0\x08\x80\x80\x02\x10\xac\x02\x20\x04\x28\xac\x02", 16);
  EXPECT_EQ(map, expected);
}

TEST_P(PageServerTest, WhatIsNotKnownIsUnsupported) {
  Open(kProcess, 12);
  Send(99, 0, 0, 0, 0);
  EXPECT_THAT(served_.get(), FailsWith(ErrorCode::kUnsupported, "command 99"));
}

TEST_P(PageServerTest, PagesOfAnUnknownKindAreUnsupported) {
  Send(kOpen2, 0, 0, 0, 12 << 8 | 7);
  EXPECT_THAT(served_.get(), FailsWith(ErrorCode::kUnsupported, ""));
}

TEST_P(PageServerTest, PagesOutOfOrderAreUnsupported) {
  Open(kProcess, 12);
  Add(12 << 8 | kProcess, 0x20000, 1);
  Send(kAdd, kPagePresent, 1, 0x10000, 12 << 8 | kProcess);
  EXPECT_THAT(served_.get(), FailsWith(ErrorCode::kUnsupported, "order"));
}

TEST_P(PageServerTest, PagesOfSomethingElseThanWasOpenedAreUnsupported) {
  Open(kProcess, 12);
  Send(kAdd, kPagePresent, 1, 0x10000, 13 << 8 | kProcess);
  EXPECT_THAT(served_.get(), FailsWith(ErrorCode::kUnsupported, ""));
}

TEST_P(PageServerTest, AnEndBeforeTheCloseIsSeen) {
  Open(kProcess, 12);
  Send(kAdd, kPagePresent, 10, 0x10000, 12 << 8 | kProcess);
  ASSERT_THAT(WriteAll(ours_.get(), std::string(5 * kPageBytes, 'x')), IsOk());
  ours_.Reset();
  EXPECT_THAT(served_.get(), FailsWith(ErrorCode::kUnavailable, "criu ended"));
}

INSTANTIATE_TEST_SUITE_P(Criu, PageServerTest, testing::Values("4.1", "4.2"),
                         [](const auto& version) { return version.param == "4.1" ? "Short" : "Long"; });

}  // namespace
}  // namespace gpumig
