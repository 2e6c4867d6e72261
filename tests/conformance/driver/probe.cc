#include "tests/conformance/driver/probe.h"

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/plugins/softgpu/kernels.h"

namespace conformance {

namespace {

std::string NameOf(softgpu_test::Driver& cuda, CUresult result) {
  const char* name = nullptr;
  if (cuda.cuGetErrorName == nullptr || cuda.cuGetErrorName(result, &name) != CUDA_SUCCESS || name == nullptr) {
    return std::to_string(static_cast<unsigned>(result));
  }
  return name;
}

const char* BaseName(const char* path) {
  const char* slash = std::strrchr(path, '/');
  return slash == nullptr ? path : slash + 1;
}

}  // namespace

CUcontext Probe::Begin() {
  Probe& probe = *this;
  CUcontext context = nullptr;
  NEED_CU(cuda.cuInit(0));
  NEED_CU(cuda.cuDevicePrimaryCtxRetain(&context, 0));
  NEED_CU(cuda.cuCtxSetCurrent(context));
  return context;
}

CUfunction Probe::Kernel(const char* name, CUmodule* module_out) {
  Probe& probe = *this;
  CUmodule module = nullptr;
  CUfunction function = nullptr;
  NEED_CU(cuda.cuModuleLoadData(&module, softgpu_test::kKernels));
  NEED_CU(cuda.cuModuleGetFunction(&function, module, name));
  if (module_out != nullptr) *module_out = module;
  return function;
}

CUdeviceptr Probe::Memory(std::size_t bytes) {
  Probe& probe = *this;
  CUdeviceptr memory = 0;
  NEED_CU(cuda.cuMemAlloc_v2(&memory, bytes));
  return memory;
}

CUresult Probe::Launch(CUfunction function, unsigned items, std::vector<void*> parameters, CUstream stream) {
  return cuda.cuLaunchKernel(function, (items + 127) / 128, 1, 1, items < 128 ? items : 128, 1, 1, 0, stream,
                             parameters.data(), nullptr);
}

void Probe::Expect(bool holds, const char* what, const char* file, int line) {
  if (holds) return;
  different_ = true;
  std::printf("%s:%d: not so: %s\n", BaseName(file), line, what);
}

void Probe::ExpectResult(CUresult actual, CUresult expected, const char* call, const char* file, int line) {
  if (actual == expected) return;
  different_ = true;
  std::printf("%s:%d: %s is %s, not %s\n", BaseName(file), line, call, NameOf(cuda, actual).c_str(),
              NameOf(cuda, expected).c_str());
}

void Probe::Need(CUresult actual, const char* call, const char* file, int line) {
  if (actual == CUDA_SUCCESS) return;
  if (actual == CUDA_ERROR_NOT_SUPPORTED) NotSupported(std::string(call) + " is CUDA_ERROR_NOT_SUPPORTED");
  ExpectResult(actual, CUDA_SUCCESS, call, file, line);
  Finish();
}

void Probe::NotSupported(const std::string& why) {
  std::printf("%s\n", why.c_str());
  std::fflush(stdout);
  _exit(static_cast<int>(Verdict::kNotSupported));
}

void Probe::Finish() {
  std::fflush(stdout);
  _exit(static_cast<int>(different_ ? Verdict::kDifferent : Verdict::kSame));
}

// --- two processes ---

Partner::Partner(Probe& probe, const Body& body) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) std::abort();
  std::fflush(stdout);
  pid_ = fork();
  if (pid_ == 0) {
    close(ends[0]);
    socket_ = ends[1];
    Probe own(probe.cuda);
    body(own, *this);
    own.Finish();
  }
  close(ends[1]);
  socket_ = ends[0];
}

void Partner::Send(const void* data, std::size_t bytes, int fd) {
  iovec part{const_cast<void*>(data), bytes};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &fd, sizeof(fd));
  }
  [[maybe_unused]] const ssize_t sent = sendmsg(socket_, &message, MSG_NOSIGNAL);
}

int Partner::Receive(void* data, std::size_t bytes) {
  iovec part{data, bytes};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  if (recvmsg(socket_, &message, MSG_CMSG_CLOEXEC) != static_cast<ssize_t>(bytes)) {
    std::fflush(stdout);
    _exit(static_cast<int>(Verdict::kDifferent));
  }
  int fd = -1;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header != nullptr && header->cmsg_type == SCM_RIGHTS) std::memcpy(&fd, CMSG_DATA(header), sizeof(fd));
  return fd;
}

void Partner::Join(Probe& probe) {
  int status = 0;
  waitpid(pid_, &status, 0);
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  if (code == static_cast<int>(Verdict::kNotSupported)) probe.NotSupported("the second process could not");
  EXPECT_HOLDS(code == static_cast<int>(Verdict::kSame) && "the second process found all as claimed");
}

// --- running ---

std::vector<Claim> AllClaims() {
  std::vector<Claim> all;
  for (const auto group : {DeviceClaims(), ContextClaims(), MemoryClaims(), CopyClaims(), MappingClaims(),
                           StreamClaims(), ModuleClaims(), CheckpointClaims()}) {
    all.insert(all.end(), group.begin(), group.end());
  }
  return all;
}

softgpu_test::Driver OpenDriver() {
  const char* path = std::getenv("GPUMIG_LIBCUDA");
  if (path == nullptr || *path == '\0') {
    std::fprintf(stderr, "GPUMIG_LIBCUDA names no driver library\n");
    std::exit(2);
  }
  return softgpu_test::Driver::OpenWhatIsThere(path);
}

void RunClaim(const Claim& claim) {
  softgpu_test::Driver driver = OpenDriver();
  Probe probe(driver);
  claim.body(probe);
  probe.Finish();
}

}  // namespace conformance
