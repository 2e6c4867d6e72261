// Clients that do not keep to the rules: the daemon lives on, others do not notice, and nothing of theirs stays.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "plugins/softgpu/wire/packet.h"
#include "plugins/softgpu/wire/unique_fd.h"
#include "tests/plugins/softgpu/gpu_process.h"
#include "tests/plugins/softgpu/job.h"
#include "tests/plugins/softgpu/kernels.h"
#include "tests/plugins/softgpu/soft_node.h"

namespace softgpu_test {
namespace {

using softgpu::ConnectTo;
using softgpu::Exchange;
using softgpu::Op;
using softgpu::RequestHeader;
using softgpu::UniqueFd;
namespace request = softgpu::request;

// A client that writes the protocol by hand.
class RawClient {
 public:
  explicit RawClient(const SoftNode& node) : socket_(ConnectTo(node.socket().c_str())) {}

  int socket() const { return socket_.get(); }

  template <typename Request>
  CUresult Ask(const Request& request, typename Request::Reply& reply, int fd = -1, softgpu::Id context = 0) {
    return AskWithFds(request, reply, fd >= 0 ? std::vector{fd} : std::vector<int>(), context);
  }
  template <typename Request>
  CUresult AskWithFds(const Request& request, typename Request::Reply& reply, const std::vector<int>& fds,
                      softgpu::Id context = 0) {
    Exchange exchange;
    exchange.header.op = Request::kOp;
    exchange.header.context = context;
    exchange.body = std::as_bytes(std::span(&request, 1));
    exchange.reply_body = std::as_writable_bytes(std::span(&reply, 1));
    exchange.fds = fds;
    if (!softgpu::DoExchange(socket_.get(), exchange)) return CUDA_ERROR_UNKNOWN;
    if (exchange.reply_fds.count > 0) memory_.reset(dup(exchange.reply_fds.fds[0]));
    exchange.reply_fds.CloseAll();
    return static_cast<CUresult>(exchange.reply.result);
  }

  softgpu::DeviceDescription FirstDevice() {
    request::Hello::Reply devices;
    EXPECT_EQ(Ask(request::Hello{}, devices), CUDA_SUCCESS);
    return devices.devices[0];
  }

  // A session on the first device, at an address range of 64 MiB.
  request::OpenSession OpenRequest() {
    request::OpenSession open;
    open.device_count = 1;
    open.devices[0] = {FirstDevice().uuid, std::uint64_t{1} << 40, 64 << 20};
    return open;
  }

  int memory() const { return memory_.get(); }

 private:
  UniqueFd socket_;
  UniqueFd memory_;
};

bool IsClosed(int socket) {
  char byte = 0;
  return recv(socket, &byte, 1, 0) == 0;
}

class SoftGpuHostileTest : public testing::Test {
 protected:
  SoftGpuHostileTest() : neighbour_(node_.socket(), &RunJob) { StepNeighbour(); }
  ~SoftGpuHostileTest() override {
    EXPECT_TRUE(node_.IsAlive());
    StepNeighbour();
    EXPECT_EQ(trace_, UndisturbedTrace(static_cast<int>(trace_.size()), 1));
    neighbour_.Kill();
    EXPECT_TRUE(node_.WaitUntilUnused());
  }

  void StepNeighbour() {
    neighbour_.link().Send(1);
    trace_.push_back(neighbour_.link().Receive());
  }

  SoftNode node_{{"memory=256MiB,uuid=" + TestUuid(1)}};
  GpuProcess neighbour_;  // An honest job, on the same daemon all the time.
  std::vector<std::uint64_t> trace_;
};

TEST_F(SoftGpuHostileTest, GarbageClosesTheConnection) {
  std::mt19937_64 random(4711);
  for (int i = 0; i < 300; ++i) {
    RawClient client(node_);
    std::vector<unsigned char> packet(1 + random() % 4000);
    for (unsigned char& byte : packet) byte = static_cast<unsigned char>(random());
    if (i % 3 == 0) {  // A header that passes the first look.
      RequestHeader header;
      header.op = static_cast<Op>(random() % 64);
      header.body_bytes = static_cast<std::uint32_t>(random() % 2 == 0 ? packet.size() : random());
      packet.resize(std::max(packet.size(), sizeof(header)) + sizeof(header));
      std::memcpy(packet.data(), &header, sizeof(header));
    }
    ASSERT_EQ(send(client.socket(), packet.data(), packet.size(), MSG_NOSIGNAL), static_cast<ssize_t>(packet.size()));
    ASSERT_TRUE(IsClosed(client.socket())) << i;
  }
}

TEST_F(SoftGpuHostileTest, RequestsOfASessionNeedOne) {
  RawClient client(node_);
  request::MemAlloc allocate;
  allocate.bytes = 64;
  request::MemAlloc::Reply reply;
  EXPECT_EQ(client.Ask(allocate, reply), CUDA_ERROR_UNKNOWN);
  RawClient other(node_);
  softgpu::Empty nothing;
  EXPECT_EQ(other.Ask(request::Attach{}, nothing), CUDA_ERROR_INVALID_VALUE);  // A guessed token.
}

// Random bodies for every request, in a session: each is answered or ends the connection.
TEST_F(SoftGpuHostileTest, RandomRequestsInASessionHarmNobody) {
  std::mt19937_64 random(42);
  RawClient owner(node_);
  softgpu::SessionReply session;
  ASSERT_EQ(owner.Ask(owner.OpenRequest(), session), CUDA_SUCCESS);
  request::PrimaryRetain::Reply context;
  for (int round = 0; round < 3000; ++round) {
    RawClient channel(node_);
    request::Attach attach;
    attach.token = session.token;
    softgpu::Empty nothing;
    ASSERT_EQ(channel.Ask(attach, nothing), CUDA_SUCCESS);
    ASSERT_EQ(channel.Ask(request::PrimaryRetain{}, context), CUDA_SUCCESS);
    RequestHeader header;
    // Not those that wait for somebody: a turn, work for the service thread.
    do {
      header.op = static_cast<Op>(static_cast<unsigned>(Op::kPrimaryRetain) +
                                  random() % (static_cast<unsigned>(Op::kModuleKernel) - 3));
    } while (header.op == Op::kCopyTurn || header.op == Op::kServiceWait || header.op == Op::kHostFunction ||
             header.op == Op::kCopyDeferred);
    header.context = context.context;
    std::vector<std::uint64_t> body(random() % 8);
    for (std::uint64_t& word : body) {
      const std::uint64_t kinds[] = {0,
                                     random() % 64,
                                     softgpu::kFirstId + random() % 64,
                                     (std::uint64_t{1} << 40) + random() % (64 << 20),
                                     random(),
                                     ~std::uint64_t{0} - random() % 4096};
      word = kinds[random() % 6];
    }
    // Sizes of real bodies, most of the time, also in the multiples of four.
    header.body_bytes = static_cast<std::uint32_t>(body.size() * 8 - (body.empty() || random() % 3 != 0 ? 0 : 4));
    const iovec parts[] = {{&header, sizeof(header)}, {body.data(), header.body_bytes}};
    ASSERT_TRUE(softgpu::SendPacket(channel.socket(), parts));
    char reply[1024];
    ASSERT_GE(recv(channel.socket(), reply, sizeof(reply), MSG_TRUNC), 0);
  }
}

TEST_F(SoftGpuHostileTest, UnsoundSessionsAreRefused) {
  const auto refused = [&](auto change) {
    RawClient client(node_);
    request::OpenSession open = client.OpenRequest();
    change(open);
    softgpu::SessionReply session;
    EXPECT_EQ(client.Ask(open, session), CUDA_ERROR_INVALID_VALUE);
  };
  refused([](auto& open) { open.device_count = 17; });
  refused([](auto& open) { open.devices[0].uuid[0] ^= 1; });
  refused([](auto& open) { open.devices[0].base = 0; });
  refused([](auto& open) { open.devices[0].base = 12345; });
  refused([](auto& open) { open.devices[0].base = ~std::uint64_t{0} << 12; });
  refused([](auto& open) { open.devices[0].bytes = 0; });
  refused([](auto& open) { open.devices[0].bytes = std::uint64_t{1} << 41; });
  refused([](auto& open) {
    open.device_count = 2;
    open.devices[1] = open.devices[0];
  });
}

// The memory that the client shares with the daemon cannot be taken away under it.
TEST_F(SoftGpuHostileTest, DeviceMemoryCannotBeCut) {
  RawClient client(node_);
  softgpu::SessionReply session;
  ASSERT_EQ(client.Ask(client.OpenRequest(), session), CUDA_SUCCESS);
  EXPECT_NE(ftruncate(client.memory(), 0), 0);
  EXPECT_NE(fcntl(client.memory(), F_ADD_SEALS, F_SEAL_WRITE), 0);
}

TEST_F(SoftGpuHostileTest, WhatIsImportedIsChecked) {
  std::mt19937_64 random(99);
  for (int i = 0; i < 400; ++i) {
    RawClient client(node_);
    request::ImportSession import;
    import.open = client.OpenRequest();
    const UniqueFd file(memfd_create("state", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    std::vector<std::uint32_t> words(random() % 100);
    for (std::uint32_t& word : words) word = static_cast<std::uint32_t>(random() % 3 == 0 ? random() : random() % 5);
    if (!words.empty() && i % 4 != 0) words[0] = 2;  // The version.
    ASSERT_EQ(write(file.get(), words.data(), words.size() * 4), static_cast<ssize_t>(words.size() * 4));
    import.state_bytes = i % 10 == 0 ? random() : words.size() * 4;  // Now and then more than there is.
    softgpu::SessionReply session;
    EXPECT_NE(client.Ask(import, session, file.get()), CUDA_SUCCESS) << i;
  }
  // A file that is none, and one that never ends.
  RawClient client(node_);
  request::ImportSession import;
  import.open = client.OpenRequest();
  import.state_bytes = 64;
  softgpu::SessionReply session;
  const UniqueFd zero(open("/dev/zero", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(client.Ask(import, session, zero.get()), CUDA_ERROR_INVALID_VALUE);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  EXPECT_EQ(client.Ask(import, session, ends[0]), CUDA_ERROR_INVALID_VALUE);
  close(ends[0]);
  close(ends[1]);
}

TEST_F(SoftGpuHostileTest, ViewsOfWhatIsNoDeviceMemoryAreRefused) {
  RawClient owner(node_);
  softgpu::SessionReply session;
  ASSERT_EQ(owner.Ask(owner.OpenRequest(), session), CUDA_SUCCESS);
  RawClient channel(node_);
  request::Attach attach;
  attach.token = session.token;
  softgpu::Empty nothing;
  ASSERT_EQ(channel.Ask(attach, nothing), CUDA_SUCCESS);

  const auto open = [&](int memory, std::vector<softgpu::ViewPiece> pieces, std::uint64_t bytes,
                        std::uint64_t base = std::uint64_t{1} << 44) {
    const UniqueFd list(memfd_create("pieces", MFD_CLOEXEC));
    const std::size_t size = pieces.size() * sizeof(softgpu::ViewPiece);
    EXPECT_EQ(write(list.get(), pieces.data(), size), static_cast<ssize_t>(size));
    request::OpenView view;
    view.base = base;
    view.bytes = bytes;
    view.piece_count = pieces.size();
    return channel.AskWithFds(view, nothing, {memory, list.get()});
  };
  const int memory = owner.memory();
  const UniqueFd loose(memfd_create("loose", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(loose.get(), 1 << 20), 0);
  EXPECT_EQ(open(loose.get(), {{0, 4096}}, 4096), CUDA_ERROR_INVALID_VALUE);  // It could be cut under the daemon.
  EXPECT_EQ(open(memory, {{0, 4096}}, 8192), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(open(memory, {{0, 0}}, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(open(memory, {}, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(open(memory, {{1, 4096}}, 4096), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(open(memory, {{0, 100}}, 100), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(open(memory, {{64 << 20, 4096}}, 4096), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(open(memory, {{4096, ~std::uint64_t{4095}}}, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(open(memory, {{0, 4096}}, 4096, (std::uint64_t{1} << 40) + 4096),
            CUDA_ERROR_INVALID_VALUE);  // Own memory's.
  EXPECT_EQ(open(memory, {{0, 4096}}, 4096, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(open(memory, {{0, 4096}}, 4096, 17), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(open(memory, {{0, 4096}}, 4096, ~std::uint64_t{4095}), CUDA_ERROR_INVALID_VALUE);
  request::OpenView too_many;
  too_many.base = std::uint64_t{1} << 44;
  too_many.piece_count = std::uint64_t{1} << 60;
  EXPECT_EQ(channel.AskWithFds(too_many, nothing, {memory, memory}), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(channel.Ask(too_many, nothing), CUDA_ERROR_INVALID_VALUE);
  request::CloseView close_view;
  close_view.base = 4711;
  EXPECT_EQ(channel.Ask(close_view, nothing), CUDA_ERROR_INVALID_VALUE);

  EXPECT_EQ(open(memory, {{8192, 4096}, {0, 4096}}, 8192), CUDA_SUCCESS);
  EXPECT_EQ(open(memory, {{0, 4096}}, 4096), CUDA_ERROR_INVALID_VALUE);  // The range is taken.
}

TEST_F(SoftGpuHostileTest, OnlyItsOwnUserAndRootChangeWhatTheDaemonDoes) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to be somebody else";
  // So that somebody else gets as far as the daemon.
  std::filesystem::permissions(std::filesystem::path(node_.socket()).parent_path(),
                               std::filesystem::perms::owner_all | std::filesystem::perms::others_exec);
  const pid_t stranger = fork();
  if (stranger == 0) {
    if (setgid(65534) != 0 || setuid(65534) != 0) _exit(1);
    RawClient client(node_);
    request::FaultControl control;
    control.change = {1, 1, 0};
    request::FaultControl::Reply reply;
    _exit(client.Ask(control, reply) == CUDA_ERROR_NOT_PERMITTED ? 0 : 2);
  }
  int status = -1;
  waitpid(stranger, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(node_.Ctl("fault list"), "");
  RawClient client(node_);
  request::FaultControl control;
  control.change = {999, 1, 0};
  request::FaultControl::Reply reply;
  EXPECT_EQ(client.Ask(control, reply), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(SoftGpuHostileTest, WildHandlesAndAddressesAreErrors) {
  GpuProcess process(node_.socket(), [](Driver& cuda, Link&) {
    CUcontext context = nullptr;
    CHECK_OK(cuda.cuInit(0));
    CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&context, 0));
    CHECK_OK(cuda.cuCtxSetCurrent(context));
    for (const std::uint64_t wild :
         {std::uint64_t{3}, std::uint64_t{0x1234567}, ~std::uint64_t{0}, softgpu::kFirstId}) {
      const auto stream = reinterpret_cast<CUstream>(wild + 1000000);
      const auto event = reinterpret_cast<CUevent>(wild + 1000000);
      const auto function = reinterpret_cast<CUfunction>(wild);
      CHECK_RESULT(cuda.cuStreamSynchronize(stream), CUDA_ERROR_INVALID_HANDLE);
      CHECK_RESULT(cuda.cuStreamDestroy_v2(stream), CUDA_ERROR_INVALID_HANDLE);
      CHECK_RESULT(cuda.cuEventRecord(event, nullptr), CUDA_ERROR_INVALID_HANDLE);
      CHECK_RESULT(cuda.cuModuleUnload(reinterpret_cast<CUmodule>(wild)), CUDA_ERROR_INVALID_HANDLE);
      CHECK_RESULT(cuda.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr),
                   CUDA_ERROR_INVALID_HANDLE);
      CHECK_RESULT(cuda.cuMemFree_v2(wild), CUDA_ERROR_INVALID_VALUE);
      CHECK_RESULT(cuda.cuMemsetD8_v2(wild, 0, 16), CUDA_ERROR_INVALID_VALUE);
      CHECK_RESULT(cuda.cuMemsetD8_v2(wild, 0, ~std::size_t{0}), CUDA_ERROR_INVALID_VALUE);
      CHECK_RESULT(cuda.cuMemsetD2D8_v2(wild, ~std::size_t{0} / 2, 0, 16, 4), CUDA_ERROR_INVALID_VALUE);
      CHECK_RESULT(cuda.cuMemRelease(wild), CUDA_ERROR_INVALID_VALUE);
      CHECK_RESULT(cuda.cuMemMap(wild, 2 << 20, 0, wild, 0), CUDA_ERROR_INVALID_VALUE);
      CHECK_RESULT(cuda.cuMemUnmap(wild, ~std::size_t{0}), CUDA_ERROR_INVALID_VALUE);
      CHECK_RESULT(cuda.cuMemAddressFree(wild, 2 << 20), CUDA_ERROR_INVALID_VALUE);
      CHECK_RESULT(cuda.cuIpcCloseMemHandle(wild), CUDA_ERROR_INVALID_VALUE);
      CHECK_RESULT(cuda.cuLibraryUnload(reinterpret_cast<CUlibrary>(wild)), CUDA_ERROR_INVALID_HANDLE);
    }
    // What is no shared memory is not imported, whatever it is.
    CUmemGenericAllocationHandle imported = 0;
    const int zero = open("/dev/zero", O_RDWR | O_CLOEXEC);
    CHECK_RESULT(cuda.cuMemImportFromShareableHandle(&imported, reinterpret_cast<void*>(std::intptr_t{zero}),
                                                     CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
                 CUDA_ERROR_INVALID_VALUE);
    CUipcMemHandle handle{};
    std::memset(&handle, 0x53, sizeof(handle));
    CUdeviceptr opened = 0;
    CHECK_RESULT(cuda.cuIpcOpenMemHandle_v2(&opened, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS),
                 CUDA_ERROR_INVALID_VALUE);
    // The context's id is no stream for the application to end.
    CHECK_RESULT(cuda.cuStreamDestroy_v2(reinterpret_cast<CUstream>(context)), CUDA_ERROR_INVALID_HANDLE);
  });
  EXPECT_EQ(process.Wait(), 0);
}

TEST_F(SoftGpuHostileTest, TenThousandAllocationsAreFreedByDeath) {
  GpuProcess process(node_.socket(), [](Driver& cuda, Link& link) {
    CUcontext context = nullptr;
    CHECK_OK(cuda.cuInit(0));
    CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&context, 0));
    CHECK_OK(cuda.cuCtxSetCurrent(context));
    for (int i = 0; i < 10000; ++i) {
      CUdeviceptr memory = 0;
      CHECK_OK(cuda.cuMemAlloc_v2(&memory, 4000));
    }
    link.Send(0);
    link.Receive();
  });
  process.link().Receive();
  EXPECT_GE(node_.used_bytes(), 10000 * 4000);
  process.Kill();
}

TEST_F(SoftGpuHostileTest, DeathAtAnyMomentOfACallIsSurvived) {
  for (int i = 0; i < 20; ++i) {
    GpuProcess process(node_.socket(), [](Driver& cuda, Link& link) {
      link.Send(0);
      Job job(cuda);
      for (;;) job.Step();
    });
    process.link().Receive();
    std::this_thread::sleep_for(std::chrono::milliseconds(i * 3));  // Wherever it is then.
    process.Kill();
  }
}

TEST_F(SoftGpuHostileTest, OneProcessCannotTakeAllConnectionsOrSessions) {
  std::vector<std::unique_ptr<RawClient>> clients;
  softgpu::SessionReply session;
  int refused = 0;
  for (int i = 0; i < 10; ++i) {
    clients.push_back(std::make_unique<RawClient>(node_));
    if (clients.back()->Ask(clients.back()->OpenRequest(), session) == CUDA_ERROR_OUT_OF_MEMORY) ++refused;
  }
  EXPECT_GE(refused, 6);
  for (int i = 0; i < 1000; ++i) clients.push_back(std::make_unique<RawClient>(node_));
  GpuProcess other(node_.socket(), [](Driver& cuda, Link&) { CHECK_OK(cuda.cuInit(0)); });
  EXPECT_EQ(other.Wait(), 0);
}

TEST_F(SoftGpuHostileTest, MoreStreamsThanThereMayBeAreRefused) {
  GpuProcess process(node_.socket(), [](Driver& cuda, Link&) {
    CUcontext context = nullptr;
    CHECK_OK(cuda.cuInit(0));
    CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&context, 0));
    CHECK_OK(cuda.cuCtxSetCurrent(context));
    CUstream stream = nullptr;
    CUresult result = CUDA_SUCCESS;
    int made = 0;
    for (; made < 5000 && result == CUDA_SUCCESS; ++made) result = cuda.cuStreamCreate(&stream, 0);
    CHECK_THAT(result == CUDA_ERROR_OUT_OF_MEMORY && made > 500);
    CHECK_OK(cuda.cuStreamDestroy_v2(stream));
    CHECK_OK(cuda.cuStreamCreate(&stream, 0));
  });
  EXPECT_EQ(process.Wait(), 0);
}

}  // namespace
}  // namespace softgpu_test
