#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>

#include "core/base/child_process.h"
#include "tests/support/needs.h"
#include "tests/transport/test_site.h"

namespace gpumig {
namespace {

class UnixSocketTest : public testing::Test {
 protected:
  void SetUp() override {
    auto directory = TemporaryDirectory::Create(testing::TempDir(), "unix");
    ASSERT_THAT(directory, IsOk());
    directory_.emplace(std::move(*directory));
    path_ = directory_->path() / "agent.sock";
    router_.Add("POST", "/v1/who", [this](const HttpRequest& request) -> Result<HttpResponse> {
      ++handled_;
      return HttpResponse{200, "text/plain", request.peer.ToString() + ":" + std::string(request.BodyText())};
    });
  }

  Result<HttpReply> Ask() {
    HttpClient client = GPUMIG_TRY(HttpClient::ToUnixSocket(path_));
    return client.Send("POST", "/v1/who", "text/plain", BytesOf("x"));
  }

  std::optional<TemporaryDirectory> directory_;
  std::filesystem::path path_;
  Router router_;
  std::atomic<int> handled_{0};
};

TEST_F(UnixSocketTest, HandlersLearnTheCallersPidAndUid) {
  const auto server = HttpServer::ListenUnix(path_, 0600, router_);
  ASSERT_THAT(server, IsOk());
  struct stat status{};
  ASSERT_EQ(stat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777u, 0600u);
  const auto reply = Ask();
  ASSERT_THAT(reply, IsOk());
  EXPECT_EQ(reply->body, fmt::format("pid {} of uid {}:x", getpid(), geteuid()));
}

TEST_F(UnixSocketTest, TheFileGoesWithTheServer) {
  {
    const auto server = HttpServer::ListenUnix(path_, 0600, router_);
  }
  EXPECT_FALSE(std::filesystem::exists(path_));
  EXPECT_THAT(Ask(), FailsWith(ErrorCode::kUnavailable, "cannot reach the local agent at " + path_.string()));
}

TEST_F(UnixSocketTest, AServedPathAndAForeignFileAreLeftAlone) {
  const auto server = HttpServer::ListenUnix(path_, 0600, router_);
  EXPECT_THAT(HttpServer::ListenUnix(path_, 0600, router_), FailsWith(ErrorCode::kAlreadyExists, "another process"));
  EXPECT_THAT(Ask(), IsOk());
  const auto file = directory_->path() / "precious";
  ASSERT_THAT(WriteFileDurably(file, "data"), IsOk());
  EXPECT_THAT(HttpServer::ListenUnix(file, 0600, router_), FailsWith(ErrorCode::kAlreadyExists, ""));
  EXPECT_EQ(*ReadTextFile(file), "data");
}

TEST_F(UnixSocketTest, TheSocketOfADeadServerIsReplaced) {
  // As kill -9 leaves it: the file without a listener.
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path_.c_str(), path_.string().size());
  {
    const UniqueFd dead(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(bind(dead.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  }
  ASSERT_TRUE(std::filesystem::exists(path_));
  const auto server = HttpServer::ListenUnix(path_, 0600, router_);
  ASSERT_THAT(server, IsOk());
  EXPECT_THAT(Ask(), IsOk());
}

TEST_F(UnixSocketTest, OtherUsersAreRefusedEvenWhereTheModeLetsThemConnect) {
  GPUMIG_NEEDS_ROOT();
  ASSERT_EQ(chmod(directory_->path().c_str(), 0755), 0);
  // Below a directory that others may enter, which testing::TempDir() is.
  const auto server = HttpServer::ListenUnix(path_, 0666, router_);
  ASSERT_THAT(server, IsOk());
  ChildProcess::Options options;
  options.arguments = {
      "curl", "-s", "--max-time", "20", "--unix-socket", path_, "-X", "POST", "http://localhost/v1/who"};
  options.before_exec = [] { return setuid(65534) == 0 ? 0 : errno; };
  Pipe output = *MakePipe();
  options.descriptors = {{output.write_end.get(), 1}};
  auto child = ChildProcess::Start(options);
  ASSERT_THAT(child, IsOk());
  output.write_end.Reset();
  std::array<char, 1024> buffer{};
  const ssize_t count = read(output.read_end.get(), buffer.data(), buffer.size());
  ASSERT_GT(count, 0);
  const Error error = ErrorOf(403, std::string_view(buffer.data(), static_cast<std::size_t>(count)));
  EXPECT_EQ(error.code(), ErrorCode::kPermissionDenied);
  EXPECT_NE(error.message().find("uid 65534"), std::string::npos) << error.message();
  EXPECT_EQ(handled_, 0);
}

TEST_F(UnixSocketTest, RefusesAPathThatDoesNotFit) {
  EXPECT_THAT(HttpServer::ListenUnix("/tmp/" + std::string(200, 'x'), 0600, router_),
              FailsWith(ErrorCode::kInvalidArgument, "1 to 107 bytes"));
  EXPECT_THAT(HttpClient::ToUnixSocket("/tmp/" + std::string(200, 'x')),
              FailsWith(ErrorCode::kInvalidArgument, "1 to 107 bytes"));
}

}  // namespace
}  // namespace gpumig
