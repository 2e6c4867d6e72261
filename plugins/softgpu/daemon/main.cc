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

#include "plugins/softgpu/daemon/choose_build.h"
#include "plugins/softgpu/daemon/device.h"
#include "plugins/softgpu/daemon/fault_table.h"
#include "plugins/softgpu/daemon/server.h"
#include "plugins/softgpu/daemon/unsupported.h"
#include "plugins/softgpu/wire/packet.h"

namespace softgpu {
namespace {

constexpr char kUsage[] =
    R"(usage: softgpud [--socket PATH] [--device SPEC]... [--config FILE] [--mode OCTAL]
                [--driver-version 13000|13040] [--fault FAULT]...
       softgpud --status [--socket PATH]
       softgpud --unsupported
       softgpud ctl [--socket PATH] fault set|clear FAULT...
       softgpud ctl [--socket PATH] fault list|clear-all

Emulates GPUs for programs that use its libcuda.so.1. A SPEC is a comma-separated list of
  memory=2GiB  chip=NAME  uuid=GPU-…  pci=0000:01:00  numa=0  copy=4GiB (per second)  mig=2 (partitions)
each with a default; a FILE has one SPEC per line, # begins a comment, and "fault FAULT" and "driver-version N" stand for
the options. Without any device: one of 1 GiB. A FAULT is F1 to F16, F9=500 for one with a value, F1@4242 for process
4242 alone. The socket is PATH, else $SOFTGPU_SOCKET, else /run/softgpu/softgpud.sock, made with mode 666 (see --mode).
--status prints what the daemon at PATH has, as JSON; ctl changes, for its user and root, what a running one does;
--unsupported prints the driver functions that are there and return CUDA_ERROR_NOT_SUPPORTED, one per line.
)";

struct Options {
  std::string socket;
  std::vector<DeviceDescription> devices;
  std::vector<FaultSetting> faults;
  std::uint32_t driver_version = kDefaultDriverVersion;
  unsigned mode = 0666;
  bool status = false;
};

// True, or a message on stderr.
bool AddDevice(const std::string& spec, Options& options) {
  const auto parsed = ParseDevice(spec, options.devices.size());
  if (const auto* wrong = std::get_if<std::string>(&parsed)) {
    std::fprintf(stderr, "softgpud: device \"%s\": %s\n", spec.c_str(), wrong->c_str());
    return false;
  }
  for (const DeviceDescription& device : std::get<std::vector<DeviceDescription>>(parsed)) {
    if (options.devices.size() >= kMaxDevices) {
      std::fprintf(stderr, "softgpud: at most %zu devices\n", kMaxDevices);
      return false;
    }
    for (const DeviceDescription& other : options.devices) {
      if (other.uuid != device.uuid) continue;
      std::fprintf(stderr, "softgpud: device \"%s\": another device has this UUID\n", spec.c_str());
      return false;
    }
    options.devices.push_back(device);
  }
  return true;
}

bool AddFault(const std::string& text, Options& options) {
  const auto setting = ParseFault(text);
  if (const auto* wrong = std::get_if<std::string>(&setting)) {
    std::fprintf(stderr, "softgpud: fault: %s\n", wrong->c_str());
    return false;
  }
  options.faults.push_back(std::get<FaultSetting>(setting));
  return true;
}

bool SetDriverVersion(const std::string& text, Options& options) {
  for (const std::uint32_t version : {kDefaultDriverVersion, kCustomStorageVersion}) {
    if (text != std::to_string(version)) continue;
    options.driver_version = version;
    return true;
  }
  std::fprintf(stderr, "softgpud: driver version \"%s\": must be %u or %u\n", text.c_str(), kDefaultDriverVersion,
               kCustomStorageVersion);
  return false;
}

bool ReadConfigLine(const std::string& line, Options& options) {
  if (line.starts_with("fault ")) return AddFault(line.substr(6), options);
  if (line.starts_with("driver-version ")) return SetDriverVersion(line.substr(15), options);
  return AddDevice(line, options);
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
    if (!ReadConfigLine(line.substr(begin, end - begin + 1), options)) return false;
  }
  return true;
}

std::string DefaultSocket() {
  const char* environment = std::getenv("SOFTGPU_SOCKET");
  return environment != nullptr ? environment : "/run/softgpu/softgpud.sock";
}

// 0, or the exit status.
int ParseOptions(int argc, char** argv, Options& options) {
  static const option kOptions[] = {
      {"socket", required_argument, nullptr, 's'}, {"device", required_argument, nullptr, 'd'},
      {"config", required_argument, nullptr, 'c'}, {"mode", required_argument, nullptr, 'm'},
      {"fault", required_argument, nullptr, 'f'},  {"driver-version", required_argument, nullptr, 'v'},
      {"status", no_argument, nullptr, 'S'},       {"unsupported", no_argument, nullptr, 'u'},
      {"help", no_argument, nullptr, 'h'},         {nullptr, 0, nullptr, 0}};
  options.socket = DefaultSocket();
  for (int found = 0; (found = getopt_long(argc, argv, "", kOptions, nullptr)) != -1;) {
    if (found == 's') options.socket = optarg;
    if (found == 'd' && !AddDevice(optarg, options)) return 2;
    if (found == 'c' && !ReadConfig(optarg, options)) return 2;
    if (found == 'f' && !AddFault(optarg, options)) return 2;
    if (found == 'v' && !SetDriverVersion(optarg, options)) return 2;
    if (found == 'm') options.mode = static_cast<unsigned>(std::strtoul(optarg, nullptr, 8)) & 0777;
    if (found == 'S') options.status = true;
    if (found == 'u') {
      for (const std::string& symbol : UnsupportedFunctions()) std::printf("%s\n", symbol.c_str());
      std::exit(0);
    }
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

// False, and a message on stderr.
template <typename Request>
bool Ask(const std::string& path, const Request& request, typename Request::Reply& reply) {
  const UniqueFd socket(ConnectTo(path.c_str()));
  if (!socket.valid()) {
    std::fprintf(stderr, "softgpud: connect to %s: %s\n", path.c_str(), std::strerror(errno));
    return false;
  }
  Exchange exchange;
  exchange.header.op = Request::kOp;
  exchange.body = std::as_bytes(std::span(&request, 1));
  exchange.reply_body = std::as_writable_bytes(std::span(&reply, 1));
  const bool answered = DoExchange(socket.get(), exchange);
  if (answered && exchange.reply.result == 0) return true;
  const bool refused = answered && exchange.reply.result == cuda_abi::CUDA_ERROR_NOT_PERMITTED;
  std::fprintf(stderr, "softgpud: the daemon at %s %s\n", path.c_str(),
               refused ? "takes this from root and its own user only" : "gave no answer of this version");
  return false;
}

int ControlFault(const std::string& socket, const std::string& verb, const std::vector<std::string>& texts) {
  request::FaultControl control;
  request::FaultControl::Reply reply;
  control.clear_all = verb == "clear-all" ? 1 : 0;
  std::vector<FaultSetting> changes;
  for (const std::string& text : texts) {
    const auto setting = ParseFault(text);
    if (const auto* wrong = std::get_if<std::string>(&setting)) {
      std::fprintf(stderr, "softgpud: fault: %s\n", wrong->c_str());
      return 2;
    }
    changes.push_back(std::get<FaultSetting>(setting));
    if (verb != "clear") continue;
    changes.back().value = 0;
    if (const char* always = WhyAlwaysShown(changes.back()); always != nullptr) {
      std::fprintf(stderr, "softgpud: fault: %s cannot be cleared: %s\n", text.c_str(), always);
      return 2;
    }
  }
  if (changes.empty()) changes.emplace_back();
  for (const FaultSetting& change : changes) {
    control.change = change;
    if (!Ask(socket, control, reply)) return 1;
  }
  for (std::uint32_t i = 0; i < std::min<std::size_t>(reply.count, reply.settings.size()); ++i) {
    std::printf("%s\n", ToString(reply.settings[i]).c_str());
  }
  return 0;
}

// softgpud ctl [--socket PATH] fault set|clear FAULT... | list | clear-all
int Control(int argc, char** argv) {
  std::vector<std::string> words(argv + 2, argv + argc);
  std::string socket = DefaultSocket();
  if (words.size() >= 2 && words[0] == "--socket") {
    socket = words[1];
    words.erase(words.begin(), words.begin() + 2);
  }
  if (words.size() >= 2 && words[0] == "fault") {
    const std::string verb = words[1];
    words.erase(words.begin(), words.begin() + 2);
    const bool takes_faults = verb == "set" || verb == "clear";
    if ((takes_faults && !words.empty()) || ((verb == "list" || verb == "clear-all") && words.empty())) {
      return ControlFault(socket, verb, words);
    }
  }
  std::fputs(kUsage, stderr);
  return 2;
}

int PrintStatus(const std::string& path) {
  request::Hello::Reply reply;
  if (!Ask(path, request::Hello{}, reply)) return 1;
  std::printf("{\"driver_version\": %u, \"devices\": [", reply.driver_version);
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

  Server server(options.devices, options.driver_version);
  for (const FaultSetting& fault : options.faults) server.faults().Set(fault);
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
  if (argc > 1 && std::strcmp(argv[1], "ctl") == 0) return softgpu::Control(argc, argv);
  softgpu::Options options;
  if (const int status = softgpu::ParseOptions(argc, argv, options); status != 0) return status;
  if (options.status) return softgpu::PrintStatus(options.socket);
  std::fprintf(stderr, "softgpud: %s\n", softgpu::ChooseBuild(argv));
  return softgpu::Serve(options);
}
