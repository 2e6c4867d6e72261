// softgpud: the software GPU of one node.
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "plugins/softgpu/daemon/device.h"
#include "plugins/softgpu/daemon/server.h"
#include "plugins/softgpu/wire/packet.h"

namespace softgpu {
namespace {

constexpr char kUsage[] =
    R"(usage: softgpud [--socket PATH] [--device SPEC]... [--config FILE] [--mode OCTAL]
       softgpud --status [--socket PATH]

Emulates GPUs for programs that use its libcuda.so.1. A SPEC is a comma-separated list of
  memory=2GiB  chip=NAME  uuid=GPU-…  pci=0000:01:00
each with a default; a FILE has one SPEC per line, # begins a comment. Without any: one device of 1 GiB.
The socket is PATH, else $SOFTGPU_SOCKET, else /run/softgpu/softgpud.sock, made with mode 666 (see --mode).
--status prints what the daemon at PATH has, as JSON.
)";

struct Options {
  std::string socket;
  std::vector<DeviceDescription> devices;
  unsigned mode = 0666;
  bool status = false;
};

// True, or a message on stderr.
bool AddDevice(const std::string& spec, Options& options) {
  if (options.devices.size() >= kMaxDevices) {
    std::fprintf(stderr, "softgpud: at most %zu devices\n", kMaxDevices);
    return false;
  }
  const auto device = ParseDevice(spec, options.devices.size());
  if (const auto* wrong = std::get_if<std::string>(&device)) {
    std::fprintf(stderr, "softgpud: device \"%s\": %s\n", spec.c_str(), wrong->c_str());
    return false;
  }
  for (const DeviceDescription& other : options.devices) {
    if (other.uuid == std::get<DeviceDescription>(device).uuid) {
      std::fprintf(stderr, "softgpud: device \"%s\": another device has this UUID\n", spec.c_str());
      return false;
    }
  }
  options.devices.push_back(std::get<DeviceDescription>(device));
  return true;
}

bool ReadConfig(const char* path, Options& options) {
  std::ifstream file(path);
  if (!file) {
    std::fprintf(stderr, "softgpud: cannot read %s: %s\n", path, std::strerror(errno));
    return false;
  }
  std::string line;
  while (std::getline(file, line)) {
    const std::size_t begin = line.find_first_not_of(" \t\r");
    if (begin == std::string::npos || line[begin] == '#') continue;
    const std::size_t end = line.find_last_not_of(" \t\r");
    if (!AddDevice(line.substr(begin, end - begin + 1), options)) return false;
  }
  return true;
}

// 0, or the exit status.
int ParseOptions(int argc, char** argv, Options& options) {
  static const option kOptions[] = {{"socket", required_argument, nullptr, 's'},
                                    {"device", required_argument, nullptr, 'd'},
                                    {"config", required_argument, nullptr, 'c'},
                                    {"mode", required_argument, nullptr, 'm'},
                                    {"status", no_argument, nullptr, 'S'},
                                    {"help", no_argument, nullptr, 'h'},
                                    {nullptr, 0, nullptr, 0}};
  const char* environment = std::getenv("SOFTGPU_SOCKET");
  options.socket = environment != nullptr ? environment : "/run/softgpu/softgpud.sock";
  for (int found = 0; (found = getopt_long(argc, argv, "", kOptions, nullptr)) != -1;) {
    if (found == 's') options.socket = optarg;
    if (found == 'd' && !AddDevice(optarg, options)) return 2;
    if (found == 'c' && !ReadConfig(optarg, options)) return 2;
    if (found == 'm') options.mode = static_cast<unsigned>(std::strtoul(optarg, nullptr, 8)) & 0777;
    if (found == 'S') options.status = true;
    if (found == 'h') {
      std::fputs(kUsage, stdout);
      std::exit(0);
    }
    if (found == '?') return 2;
  }
  if (optind != argc) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  if (options.devices.empty() && !AddDevice("", options)) return 2;
  return 0;
}

std::string EscapeJson(const char* text) {
  std::string escaped;
  for (; *text != '\0'; ++text) {
    if (*text == '"' || *text == '\\') escaped += '\\';
    if (static_cast<unsigned char>(*text) >= 0x20) escaped += *text;
  }
  return escaped;
}

int PrintStatus(const std::string& path) {
  const UniqueFd socket(ConnectTo(path.c_str()));
  if (!socket.valid()) {
    std::fprintf(stderr, "softgpud: connect to %s: %s\n", path.c_str(), std::strerror(errno));
    return 1;
  }
  const request::Hello hello;
  request::Hello::Reply reply;
  Exchange exchange;
  exchange.header.op = Op::kHello;
  exchange.body = std::as_bytes(std::span(&hello, 1));
  exchange.reply_body = std::as_writable_bytes(std::span(&reply, 1));
  if (!DoExchange(socket.get(), exchange) || exchange.reply.result != 0) {
    std::fprintf(stderr, "softgpud: the daemon at %s gave no answer of this version\n", path.c_str());
    return 1;
  }
  std::printf("{\"devices\": [");
  for (std::uint32_t i = 0; i < std::min<std::uint32_t>(reply.device_count, kMaxDevices); ++i) {
    const DeviceDescription& device = reply.devices[i];
    std::printf(
        "%s{\"uuid\": \"%s\", \"chip\": \"%s\", \"memory_bytes\": %llu, \"used_bytes\": %llu, \"sessions\": %u}",
        i == 0 ? "" : ", ", ToString(device.uuid).c_str(), EscapeJson(device.chip).c_str(),
        static_cast<unsigned long long>(device.memory_bytes), static_cast<unsigned long long>(device.used_bytes),
        device.session_count);
  }
  std::printf("]}\n");
  return 0;
}

// Every session and connection takes descriptors.
void RaiseFileLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

int Serve(const Options& options) {
  RaiseFileLimit();
  // Before any thread is made, so that all inherit it.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);  // Whoever read our log may have gone.

  Server server(options.devices);
  if (const std::string wrong = server.Listen(options.socket, options.mode); !wrong.empty()) {
    std::fprintf(stderr, "softgpud: %s\n", wrong.c_str());
    return 1;
  }
  for (const DeviceDescription& device : options.devices) {
    std::fprintf(stderr, "softgpud: %s %s, %llu MiB\n", ToString(device.uuid).c_str(), device.chip,
                 static_cast<unsigned long long>(device.memory_bytes >> 20));
  }
  std::thread waiter([&] {
    int signal = 0;
    sigwait(&signals, &signal);
    server.Stop();
  });
  server.Run();
  pthread_kill(waiter.native_handle(), SIGTERM);  // In case it was not a signal that ended Run().
  waiter.join();
  return 0;
}

}  // namespace
}  // namespace softgpu

int main(int argc, char** argv) {
  softgpu::Options options;
  if (const int status = softgpu::ParseOptions(argc, argv, options); status != 0) return status;
  return options.status ? softgpu::PrintStatus(options.socket) : softgpu::Serve(options);
}
