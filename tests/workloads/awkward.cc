// A workload with something that cannot be captured, or that misbehaves while it is.
//
// usage: awkward io_uring LOG      holds an io_uring, which CRIU cannot dump
//        awkward userfaultfd LOG   handles its own page faults
//        awkward sysv LOG          has System V shared memory
//        awkward tied LOG         listens on LOG with ".sock" for its extension, and keeps every connection
//        awkward short LOG         ends by itself after 300 ms
#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <string>
#include <string_view>
#include <thread>

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const std::string_view kind = argv[1];
  const int log = open(argv[2], O_WRONLY | O_CREAT | O_APPEND, 0600);
  if (log < 0) return 2;
  if (kind == "io_uring") {
    io_uring_params parameters;
    std::memset(&parameters, 0, sizeof(parameters));
    if (syscall(SYS_io_uring_setup, 4, &parameters) < 0) return 3;
  }
  if (kind == "userfaultfd" && syscall(SYS_userfaultfd, O_NONBLOCK) < 0) return 3;
  if (kind == "sysv") {
    const int segment = shmget(IPC_PRIVATE, 1 << 20, IPC_CREAT | 0600);
    if (segment < 0 || shmat(segment, nullptr, 0) == reinterpret_cast<void*>(-1)) return 3;
    shmctl(segment, IPC_RMID, nullptr);  // gone with this process
  }
  if (kind == "tied") {
    const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, (std::string(argv[2]) + ".sock").c_str(), sizeof(address.sun_path) - 1);
    if (bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 || listen(listener, 4) != 0)
      return 3;
    std::thread([listener] {
      while (accept(listener, nullptr, nullptr) >= 0) {
      }
    }).detach();
  }
  const auto start = std::chrono::steady_clock::now();
  for (int count = 1; kind != "short" || std::chrono::steady_clock::now() - start < std::chrono::milliseconds(300);
       ++count) {
    const std::string line = std::to_string(count) + "\n";
    if (write(log, line.data(), line.size()) < 0) return 4;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return 0;
}
