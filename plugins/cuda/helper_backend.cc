#include "plugins/cuda/helper_backend.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/base/check.h"
#include "core/session/workload_facts.h"
#include "plugins/cuda/helper_protocol.h"

namespace gpumig {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// Far beyond what a driver needs to come up or to say a state; a helper that takes longer hangs.
constexpr milliseconds kComeUpLimit{120'000};
constexpr milliseconds kAskLimit{30'000};
// Device memory of any size, at the slowest that was seen.
constexpr milliseconds kMoveLimit{3'600'000};
// Beside the driver's own limit.
constexpr milliseconds kLockGrace{10'000};
constexpr milliseconds kEndLimit{5'000};
constexpr milliseconds kOfferLimit{2'000};
constexpr int kHelperSocket = 3;

Result<GpuState> StateFromName(const std::string& name) {
  for (const GpuState state :
       {GpuState::kNone, GpuState::kRunning, GpuState::kLocked, GpuState::kCheckpointed, GpuState::kFailed}) {
    if (name == GpuStateName(state)) return state;
  }
  return MakeError(ErrorCode::kDamaged, "the GPU helper gave the state '{}'", name);
}

}  // namespace

Result<std::unique_ptr<HelperBackend>> HelperBackend::Start(const std::filesystem::path& program,
                                                            std::vector<std::string> arguments, Offer offer) {
  auto backend = std::unique_ptr<HelperBackend>(new HelperBackend(program, std::move(arguments), std::move(offer)));
  GPUMIG_TRY(backend->EnsureRunning());
  return backend;
}

// False: nobody is there, or it is not like us. Nothing is wrong then: we have a program of our own.
bool HelperBackend::TakeOffer() {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (offer_is_stale_ || offer_.socket.empty() || offer_.socket.size() >= sizeof(address.sun_path)) return false;
  std::memcpy(address.sun_path, offer_.socket.c_str(), offer_.socket.size() + 1);
  UniqueFd connection(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (connect(connection.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) return false;
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(connection.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.uid != geteuid()) return false;
  const Result<Json> hello = ReceiveHelperMessage(connection.get(), steady_clock::now() + kOfferLimit);
  if (!hello || !CheckHelperAnswer(*hello)) return false;
  const Result<std::string> identity = StringMember(*hello, "identity");
  const Result<std::string> description = StringMember(*hello, "description");
  if (!identity || *identity != offer_.identity || !description) return false;
  description_ = *description;
  running_.emplace(Running{peer.pid, std::nullopt, std::move(connection)});
  return true;
}

Result<void> HelperBackend::EnsureRunning() {
  if (running_ || TakeOffer()) return Ok();
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) {
    return Error::FromErrno(errno, "make the GPU helper's socket");
  }
  UniqueFd ours(sockets[0]);
  const UniqueFd theirs(sockets[1]);
  ChildProcess::Options options;
  options.arguments = {program_.string()};
  options.arguments.insert(options.arguments.end(), arguments_.begin(), arguments_.end());
  options.descriptors = {{theirs.get(), kHelperSocket}};
  ChildProcess child = GPUMIG_TRY(ChildProcess::Start(options), "start the GPU helper {}", program_.string());
  const pid_t pid = child.pid();
  running_.emplace(Running{pid, std::move(child), std::move(ours)});
  const Json hello = GPUMIG_TRY(Call(Json(), "its start", kComeUpLimit));
  description_ = GPUMIG_TRY(StringMember(hello, "description"));
  return Ok();
}

// A null request only waits for the answer: the helper's first words.
Result<Json> HelperBackend::Call(const Json& request, std::string_view what, milliseconds limit) {
  if (!request.is_null()) GPUMIG_TRY(EnsureRunning());
  const auto deadline = steady_clock::now() + limit;
  const auto exchange = [&]() -> Result<Json> {
    if (!request.is_null()) GPUMIG_TRY(SendHelperMessage(running_->socket.get(), request));
    return ReceiveHelperMessage(running_->socket.get(), deadline);
  };
  const Result<Json> answer = exchange();
  if (answer) {
    const Result<void> checked = CheckHelperAnswer(*answer);
    if (checked) return *answer;
    if (request.is_null()) running_.reset();  // it has no driver
    return checked.error();
  }
  // Dead, silent or mad: none of them gets a second call.
  const pid_t pid = running_->pid;
  std::string how = answer.error().message();
  if (answer.error().code() == ErrorCode::kUnavailable && running_->child) {
    const Result<ExitStatus> status = running_->child->Wait(kEndLimit);
    how = status ? "it ended: " + status->ToString() : "it closed its socket";
  }
  running_.reset();
  return MakeError(ErrorCode::kUnavailable, "the GPU helper (process {}) failed during {}: {}", pid, what, how)
      .WithNextStep("a new helper is started by the next call; if it fails again, see the driver's own log");
}

Result<Json> HelperBackend::CallFor(const char* call, pid_t process, milliseconds limit) {
  return Call({{"call", call}, {"process", process}}, fmt::format("{} of process {}", call, process), limit);
}

std::string HelperBackend::Describe() { return description_; }

Result<std::vector<GpuFacts>> HelperBackend::Devices() {
  Result<std::vector<GpuFacts>> gpus = AskDevices();
  if (gpus || gpus.error().code() != ErrorCode::kUnavailable) return gpus;
  offer_is_stale_ = offer_is_stale_ || is_another_ones();
  // Perhaps a new helper finds devices again. If not, the old one still tells states and unlocks.
  std::optional<Running> old = std::move(running_);
  running_.reset();
  if (EnsureRunning()) return AskDevices();
  if (!running_) running_ = std::move(old);
  return gpus;
}

Result<std::vector<GpuFacts>> HelperBackend::AskDevices() {
  const Json answer = GPUMIG_TRY(Call({{"call", "devices"}}, "the list of GPUs", kAskLimit));
  std::vector<GpuFacts> gpus;
  for (const Json& gpu : GPUMIG_TRY(ArrayMember(answer, "gpus"))) gpus.push_back(GPUMIG_TRY(GpuFromJson(gpu)));
  return gpus;
}

Result<GpuState> HelperBackend::State(pid_t process) {
  if (process == helper_pid()) return GpuState::kNone;
  const Json answer = GPUMIG_TRY(CallFor("state", process, kAskLimit));
  return StateFromName(GPUMIG_TRY(StringMember(answer, "state")));
}

std::optional<std::uint64_t> HelperBackend::HeldBytes(pid_t process) {
  const Result<Json> answer = CallFor("held_bytes", process, kAskLimit);
  if (!answer || !answer->contains("bytes")) return std::nullopt;
  const Result<std::uint64_t> bytes = UnsignedMember(*answer, "bytes");
  return bytes ? std::optional(*bytes) : std::nullopt;
}

Result<void> HelperBackend::Lock(pid_t process, milliseconds limit) {
  GPUMIG_CHECK(limit > milliseconds(0));
  GPUMIG_TRY(Call({{"call", "lock"}, {"process", process}, {"limit_ms", limit.count()}},
                  fmt::format("lock of process {}", process), limit + kLockGrace));
  return Ok();
}

Result<void> HelperBackend::Checkpoint(pid_t process) {
  GPUMIG_TRY(CallFor("checkpoint", process, kMoveLimit));
  return Ok();
}

Result<void> HelperBackend::Restore(pid_t process, std::span<const GpuPair> map) {
  Json pairs = Json::array();
  for (const GpuPair& pair : map) pairs.push_back({{"old", pair.old_uuid}, {"new", pair.new_uuid}});
  GPUMIG_TRY(Call({{"call", "restore"}, {"process", process}, {"map", pairs}},
                  fmt::format("restore of process {}", process), kMoveLimit));
  return Ok();
}

Result<void> HelperBackend::Unlock(pid_t process) {
  GPUMIG_TRY(CallFor("unlock", process, kAskLimit));
  return Ok();
}

Result<pid_t> HelperBackend::RestoreThread(pid_t process) {
  const Json answer = GPUMIG_TRY(CallFor("restore_thread", process, kAskLimit));
  const std::int64_t thread = GPUMIG_TRY(IntegerMember(answer, "thread"));
  if (thread <= 0 || thread > 1 << 22)
    return MakeError(ErrorCode::kDamaged, "the GPU helper gave the thread {}", thread);
  return static_cast<pid_t>(thread);
}

}  // namespace gpumig
