#include "plugins/softgpu/daemon/connection.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>
#include <optional>
#include <utility>

#include "plugins/softgpu/wire/packet.h"

namespace softgpu {

using cuda_abi::CUresult;

namespace {

constexpr std::uint32_t kMostInitMs = 60000;

// The fd is the client's, which may change or cut it under us: read it, never map it.
std::optional<std::string> ReadAll(int fd, std::uint64_t bytes) {
  std::string text;
  try {
    text.resize(bytes);
  } catch (const std::bad_alloc&) {
    return std::nullopt;
  }
  std::uint64_t done = 0;
  while (done < bytes) {
    const ssize_t count = pread(fd, text.data() + done, bytes - done, static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return std::nullopt;
    done += static_cast<std::uint64_t>(count);
  }
  return text;
}

// Only files that live in memory: reading anything else could wait for ever.
bool IsMemoryFile(int fd, std::uint64_t bytes) {
  struct stat status{};
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return false;
  return static_cast<std::uint64_t>(status.st_size) >= bytes && fcntl(fd, F_GET_SEALS) >= 0;
}

class Connection {
 public:
  Connection(Server& server, int socket, pid_t peer) : server_(server), socket_(socket), peer_(peer) {}
  ~Connection() {
    if (owns_session_) server_.Close(token_);
  }

  void Serve();

 private:
  bool ServeOne();
  // False: the connection is to end.
  bool Dispatch(const RequestHeader& header, std::span<const std::byte> body, std::span<const std::byte> payload);
  bool DispatchSession(Op op, std::span<const std::byte> body, std::span<const std::byte> payload);
  bool DispatchContext(Op op, std::span<const std::byte> body, std::span<const std::byte> payload);
  bool DispatchMemory(Op op, std::span<const std::byte> body, std::span<const std::byte> payload);
  bool DispatchMapping(Op op, std::span<const std::byte> body, std::span<const std::byte> payload);
  bool DispatchStream(Op op, std::span<const std::byte> body);
  bool DispatchModule(Op op, std::span<const std::byte> body, std::span<const std::byte> payload);

  // Reads the body of a request and has `function(request, reply)` answer it. False: it has not the right size.
  template <typename Request, typename Function>
  bool Handle(std::span<const std::byte> body, Function function) {
    if (body.size() != sizeof(Request)) return false;
    Request request;
    std::memcpy(&request, body.data(), sizeof(request));
    typename Request::Reply reply{};
    const CUresult result = function(std::as_const(request), reply);
    return Reply(result, std::as_bytes(std::span(&reply, 1)));
  }
  // As Handle(), for what needs a current context that works.
  template <typename Request, typename Function>
  bool HandleIn(std::span<const std::byte> body, Function function) {
    return Handle<Request>(body, [&](const Request& request, typename Request::Reply& reply) {
      const CUresult checked = session_->CheckContext(context_);
      return checked == cuda_abi::CUDA_SUCCESS ? function(request, reply) : checked;
    });
  }

  void Give(std::span<const std::byte> payload) { payload_out_.assign(payload.begin(), payload.end()); }
  bool Reply(CUresult result, std::span<const std::byte> body);
  CUresult OpenSession(const request::OpenSession& open, const SessionState* state, SessionReply& reply);
  CUresult Import(const request::ImportSession& import, SessionReply& reply);
  CUresult Export(request::Export::Reply& reply);
  CUresult Drain(const request::Drain& drain);
  CUresult OpenView(const request::OpenView& open);
  CUresult ControlFaults(const request::FaultControl& control, request::FaultControl::Reply& reply);
  bool Shows(Fault fault) const { return ValueOf(server_.faults().For(peer_), fault) != 0; }
  CUresult LoadModule(const request::ModuleLoad& load, request::ModuleLoad::Reply& reply);

  Server& server_;
  const int socket_;
  const pid_t peer_;
  std::shared_ptr<Session> session_;  // Shared with the session's other channels.
  Token token_{};
  bool owns_session_ = false;
  Id context_ = 0;
  ReceivedFds received_;
  std::vector<std::byte> payload_out_;        // Of the reply.
  std::vector<int> fds_out_;                  // Borrowed.
  UniqueFd fd_out_;                           // What fds_out_ borrows, where it is ours,
  std::shared_ptr<SharedMemory> shared_out_;  // or that of shared memory.
  std::vector<std::byte> buffer_ = std::vector<std::byte>(kMaxMessageBytes);
};

void Connection::Serve() {
  // Who does not say what he wants is not waited for.
  const timeval greeting_limit{10, 0};
  setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &greeting_limit, sizeof(greeting_limit));
  while (ServeOne()) {
    if (session_ == nullptr) continue;
    const timeval no_limit{0, 0};
    setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &no_limit, sizeof(no_limit));
  }
}

bool Connection::ServeOne() {
  const iovec whole{buffer_.data(), buffer_.size()};
  const ssize_t received = ReceivePacket(socket_, std::span(&whole, 1), received_);
  if (received <= 0) return false;
  bool go_on = false;
  RequestHeader header;
  const auto packet = std::span<const std::byte>(buffer_).first(static_cast<std::size_t>(received));
  if (packet.size() >= sizeof(header)) {
    std::memcpy(&header, packet.data(), sizeof(header));
    const auto rest = packet.subspan(sizeof(header));
    const std::uint64_t expected = std::uint64_t{header.body_bytes} + header.payload_bytes;
    if (header.magic == kRequestMagic && rest.size() == expected) {
      context_ = header.context;
      go_on = Dispatch(header, rest.first(header.body_bytes), rest.subspan(header.body_bytes));
    }
  }
  received_.CloseAll();
  payload_out_.clear();
  fds_out_.clear();
  fd_out_.reset();
  shared_out_.reset();
  return go_on;
}

bool Connection::Reply(CUresult result, std::span<const std::byte> body) {
  ReplyHeader header;
  header.result = result;
  header.body_bytes = static_cast<std::uint32_t>(body.size());
  header.payload_bytes = static_cast<std::uint32_t>(payload_out_.size());
  const iovec parts[] = {{&header, sizeof(header)},
                         {const_cast<std::byte*>(body.data()), body.size()},
                         {payload_out_.data(), payload_out_.size()}};
  return SendPacket(socket_, parts, fds_out_);
}

bool Connection::Dispatch(const RequestHeader& header, std::span<const std::byte> body,
                          std::span<const std::byte> payload) {
  switch (header.op) {
    case Op::kHello:
      return Handle<request::Hello>(body, [&](const auto& request, auto& reply) {
        const auto devices = server_.Describe();
        reply.device_count = static_cast<std::uint32_t>(devices.size());
        reply.driver_version = server_.driver_version();
        reply.faults = server_.faults().For(peer_);
        std::copy(devices.begin(), devices.end(), reply.devices.begin());
        return request.version == kProtocolVersion ? cuda_abi::CUDA_SUCCESS
                                                   : cuda_abi::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH;
      });
    case Op::kOpenSession:
      return Handle<request::OpenSession>(
          body, [&](const auto& request, auto& reply) { return OpenSession(request, nullptr, reply); });
    case Op::kImportSession:
      return Handle<request::ImportSession>(body,
                                            [&](const auto& request, auto& reply) { return Import(request, reply); });
    case Op::kAttach:
      return Handle<request::Attach>(body, [&](const auto& request, auto&) {
        if (session_ != nullptr) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
        session_ = server_.Find(request.token);
        return session_ == nullptr ? cuda_abi::CUDA_ERROR_INVALID_VALUE : cuda_abi::CUDA_SUCCESS;
      });
    case Op::kCloseSession:
      if (!owns_session_) return false;
      return Handle<request::CloseSession>(body, [&](const auto&, auto&) {
        server_.Close(token_);
        return cuda_abi::CUDA_SUCCESS;
      });
    case Op::kFaultControl:
      return session_ == nullptr && Handle<request::FaultControl>(body, [&](const auto& request, auto& reply) {
               return ControlFaults(request, reply);
             });
    default:
      return session_ != nullptr && !owns_session_ && DispatchSession(header.op, body, payload);
  }
}

CUresult Connection::OpenSession(const request::OpenSession& open, const SessionState* state, SessionReply& reply) {
  if (session_ != nullptr) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  if (state == nullptr) {
    const auto now = std::chrono::steady_clock::now();
    const std::uint32_t slow_ms = ValueOf(server_.faults().For(peer_), Fault::kSlowInit);
    if (slow_ms != 0) server_.WaitOut(nullptr, now + std::chrono::milliseconds(std::min(slow_ms, kMostInitMs)));
    // cuInit comes back between somebody's lock and what follows it.
    if (Shows(Fault::kInitRace)) server_.WaitUntilSomeIsLocked(now + std::chrono::milliseconds(kMostInitMs));
  } else if (Shows(Fault::kNoPersistence) && server_.session_count() == 0) {
    return cuda_abi::CUDA_ERROR_OPERATING_SYSTEM;  // Nobody holds the device open.
  }
  CUresult result = cuda_abi::CUDA_SUCCESS;
  session_ = server_.Open(peer_, open, state, token_, result);
  if (session_ == nullptr) return result;
  owns_session_ = true;
  if (state != nullptr) server_.SetLocked(session_.get(), true);
  reply.token = token_;
  fds_out_ = session_->memory_fds();
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Connection::Import(const request::ImportSession& import, SessionReply& reply) {
  if (received_.count != 1 || import.state_bytes > kMaxStateBytes) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  if (!IsMemoryFile(received_.fds[0], import.state_bytes)) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  const auto bytes = ReadAll(received_.fds[0], import.state_bytes);
  if (!bytes) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  const auto state = LoadState(std::as_bytes(std::span(*bytes)));
  if (!state) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  return OpenSession(import.open, &*state, reply);
}

CUresult Connection::Drain(const request::Drain& drain) {
  std::optional<Scheduler::Clock::time_point> deadline;
  const auto limit = std::chrono::milliseconds(std::min<std::uint64_t>(drain.timeout_ms, 1U << 30));
  if (drain.timeout_ms != 0) deadline = Scheduler::Clock::now() + limit;
  if (Shows(Fault::kLockTimeout)) {
    server_.WaitOut(session_.get(), deadline);
    return cuda_abi::CUDA_ERROR_NOT_READY;
  }
  if (Shows(Fault::kLockHangs) && !server_.WaitUntilNoOtherIsLocked(session_.get(), deadline)) {
    return cuda_abi::CUDA_ERROR_NOT_READY;
  }
  if (!session_->scheduler().WaitAll(deadline)) return cuda_abi::CUDA_ERROR_NOT_READY;
  server_.SetLocked(session_.get(), true);
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Connection::OpenView(const request::OpenView& open) {
  if (received_.count != 2 || open.piece_count > kMaxViewPieces) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  const std::uint64_t list_bytes = open.piece_count * sizeof(ViewPiece);
  if (!IsMemoryFile(received_.fds[1], list_bytes)) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  const auto text = ReadAll(received_.fds[1], list_bytes);
  if (!text) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  std::vector<ViewPiece> pieces(open.piece_count);
  std::memcpy(pieces.data(), text->data(), list_bytes);
  return session_->OpenView(open, received_.fds[0], pieces);
}

CUresult Connection::ControlFaults(const request::FaultControl& control, request::FaultControl::Reply& reply) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(socket_, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return cuda_abi::CUDA_ERROR_NOT_PERMITTED;
  if (peer.uid != 0 && peer.uid != geteuid()) return cuda_abi::CUDA_ERROR_NOT_PERMITTED;
  if (control.clear_all != 0) server_.faults().ClearAll();
  if (control.change.fault != 0 && !server_.faults().Set(control.change)) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  const std::vector<FaultSetting> all = server_.faults().All();
  reply.count = static_cast<std::uint32_t>(all.size());
  std::copy(all.begin(), all.end(), reply.settings.begin());
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Connection::Export(request::Export::Reply& reply) {
  SessionState state;
  if (const CUresult result = session_->Export(state); result != cuda_abi::CUDA_SUCCESS) return result;
  const std::vector<std::byte> bytes = SaveState(state);
  fd_out_.reset(memfd_create("softgpu-state", MFD_CLOEXEC));
  if (!fd_out_.valid()) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = write(fd_out_.get(), bytes.data() + done, bytes.size() - done);
    if (count <= 0) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
    done += static_cast<std::size_t>(count);
  }
  reply.state_bytes = bytes.size();
  fds_out_ = {fd_out_.get()};
  return cuda_abi::CUDA_SUCCESS;
}

bool Connection::DispatchSession(Op op, std::span<const std::byte> body, std::span<const std::byte> payload) {
  switch (op) {
    case Op::kServiceWait:
      return Handle<request::ServiceWait>(body, [&](const auto&, auto& reply) {
        reply = session_->NextService();
        if (reply.kind == request::ServiceWait::Kind::kCopy) {
          session_->WaitForBandwidthAt(reply.function_or_address, reply.bytes);
        }
        return session_->scheduler().closed() ? cuda_abi::CUDA_ERROR_DEINITIALIZED : cuda_abi::CUDA_SUCCESS;
      });
    case Op::kServiceDone:
      return Handle<request::ServiceDone>(body, [&](const auto& r, auto&) { return session_->FinishTurn(r.turn); });
    case Op::kServicePark:
      return Handle<request::ServicePark>(body, [&](const auto&, auto&) {
        session_->scheduler().ParkService();
        return cuda_abi::CUDA_SUCCESS;
      });
    case Op::kDrain:
      return Handle<request::Drain>(body, [&](const auto& request, auto&) { return Drain(request); });
    case Op::kUnlocked:
      return Handle<request::Unlocked>(body, [&](const auto&, auto&) {
        server_.SetLocked(session_.get(), false);
        return cuda_abi::CUDA_SUCCESS;
      });
    case Op::kBandwidth:
      return Handle<request::Bandwidth>(
          body, [&](const auto& request, auto&) { return session_->WaitForBandwidth(request.ordinal, request.bytes); });
    case Op::kOpenView:
      return Handle<request::OpenView>(body, [&](const auto& request, auto&) { return OpenView(request); });
    case Op::kCloseView:
      return Handle<request::CloseView>(body,
                                        [&](const auto& request, auto&) { return session_->CloseView(request.base); });
    case Op::kExport:
      return Handle<request::Export>(body, [&](const auto&, auto& reply) { return Export(reply); });
    default:
      return DispatchContext(op, body, payload);
  }
}

bool Connection::DispatchContext(Op op, std::span<const std::byte> body, std::span<const std::byte> payload) {
  switch (op) {
    case Op::kPrimaryRetain:
      return Handle<request::PrimaryRetain>(
          body, [&](const auto& r, auto& reply) { return session_->PrimaryRetain(r.ordinal, reply.context); });
    case Op::kPrimaryRelease:
      return Handle<request::PrimaryRelease>(body,
                                             [&](const auto& r, auto&) { return session_->PrimaryRelease(r.ordinal); });
    case Op::kPrimaryState:
      return Handle<request::PrimaryState>(body, [&](const auto& r, auto& reply) {
        bool active = false;
        const CUresult result = session_->PrimaryState(r.ordinal, reply.flags, active);
        reply.active = active ? 1 : 0;
        return result;
      });
    case Op::kPrimarySetFlags:
      return Handle<request::PrimarySetFlags>(
          body, [&](const auto& r, auto&) { return session_->PrimarySetFlags(r.ordinal, r.flags); });
    case Op::kPrimaryReset:
      return Handle<request::PrimaryReset>(body,
                                           [&](const auto& r, auto&) { return session_->PrimaryReset(r.ordinal); });
    case Op::kContextCreate:
      return Handle<request::ContextCreate>(
          body, [&](const auto& r, auto& reply) { return session_->ContextCreate(r.ordinal, r.flags, reply.context); });
    case Op::kContextDestroy:
      return Handle<request::ContextDestroy>(body,
                                             [&](const auto& r, auto&) { return session_->ContextDestroy(r.context); });
    case Op::kContextInfo:
      return Handle<request::ContextInfo>(
          body, [&](const auto& r, auto& reply) { return session_->ContextInfo(r.context, reply); });
    case Op::kContextWait:
      return HandleIn<request::ContextWait>(body, [&](const auto&, auto&) {
        session_->scheduler().WaitContext(context_);
        return session_->CheckContext(context_);
      });
    default:
      return DispatchMemory(op, body, payload);
  }
}

bool Connection::DispatchMemory(Op op, std::span<const std::byte> body, std::span<const std::byte> payload) {
  switch (op) {
    case Op::kMemAlloc:
      return HandleIn<request::MemAlloc>(
          body, [&](const auto& r, auto& reply) { return session_->MemAlloc(context_, r.bytes, reply.address); });
    case Op::kMemFree:
      return HandleIn<request::MemFree>(body, [&](const auto& r, auto&) { return session_->MemFree(r.address); });
    case Op::kMemInfo:
      return HandleIn<request::MemInfo>(body,
                                        [&](const auto&, auto& reply) { return session_->MemInfo(context_, reply); });
    case Op::kMemFind:
      return Handle<request::MemFind>(body,
                                      [&](const auto& r, auto& reply) { return session_->MemFind(r.address, reply); });
    case Op::kCopyIn:
      return HandleIn<request::CopyIn>(body, [&](const auto& r, auto&) {
        return session_->CopyIn(context_, r.stream, r.address, payload, r.wait != 0);
      });
    case Op::kCopyOut:
      return HandleIn<request::CopyOut>(body, [&](const auto& r, auto&) {
        if (r.bytes > kMaxInlineBytes) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
        payload_out_.resize(r.bytes);
        const CUresult result = session_->CopyOut(context_, r.stream, r.address, payload_out_);
        if (result != cuda_abi::CUDA_SUCCESS) payload_out_.clear();
        return result;
      });
    case Op::kCopyTurn:
      return HandleIn<request::CopyTurn>(
          body, [&](const auto& r, auto& reply) { return session_->CopyTurn(context_, r, reply); });
    case Op::kCopyTurnDone:
      return Handle<request::CopyTurnDone>(body, [&](const auto& r, auto&) { return session_->FinishTurn(r.turn); });
    case Op::kCopyDeferred:
      return HandleIn<request::CopyDeferred>(body,
                                             [&](const auto& r, auto&) { return session_->CopyDeferred(context_, r); });
    case Op::kCopyDevice:
      return HandleIn<request::CopyDevice>(body,
                                           [&](const auto& r, auto&) { return session_->CopyDevice(context_, r); });
    case Op::kFill:
      return HandleIn<request::Fill>(body, [&](const auto& r, auto&) { return session_->Fill(context_, r); });
    case Op::kTranslate:
      return Handle<request::Translate>(body, [&](const auto& r, auto&) {
        std::vector<MemoryPiece> pieces;
        const CUresult result = session_->Translate(r, pieces);
        Give(std::as_bytes(std::span(pieces)));
        return result;
      });
    case Op::kCopyNow:
      return Handle<request::CopyNow>(body, [&](const auto& r, auto&) {
        const bool is_sound = received_.count == 1 && IsMemoryFile(received_.fds[0], r.bytes);
        return is_sound ? session_->CopyNow(r, received_.fds[0]) : cuda_abi::CUDA_ERROR_INVALID_VALUE;
      });
    case Op::kModuleLoad:
    case Op::kModuleUnload:
    case Op::kModuleFunction:
    case Op::kModuleGlobal:
    case Op::kModuleKernel:
    case Op::kFunctionInfo:
    case Op::kFunctionSet:
    case Op::kLaunch:
      return DispatchModule(op, body, payload);
    default:
      return DispatchMapping(op, body, payload);
  }
}

bool Connection::DispatchMapping(Op op, std::span<const std::byte> body, std::span<const std::byte> payload) {
  switch (op) {
    case Op::kReserve:
      return Handle<request::Reserve>(body, [&](const auto& r, auto&) { return session_->Reserve(r.base, r.bytes); });
    case Op::kUnreserve:
      return Handle<request::Unreserve>(body,
                                        [&](const auto& r, auto&) { return session_->Unreserve(r.base, r.bytes); });
    case Op::kPhysicalCreate:
      return Handle<request::PhysicalCreate>(body, [&](const auto& r, auto& reply) {
        return session_->PhysicalCreate(r.bytes, r.properties, reply.handle);
      });
    case Op::kPhysicalRelease:
      return Handle<request::PhysicalRelease>(
          body, [&](const auto& r, auto&) { return session_->PhysicalRelease(r.handle); });
    case Op::kPhysicalRetain:
      return Handle<request::PhysicalRetain>(
          body, [&](const auto& r, auto& reply) { return session_->PhysicalRetain(r.address, reply.handle); });
    case Op::kPhysicalInfo:
      return Handle<request::PhysicalInfo>(
          body, [&](const auto& r, auto& reply) { return session_->PhysicalInfo(r.handle, reply); });
    case Op::kPhysicalExport:
      return Handle<request::PhysicalExport>(body, [&](const auto& r, auto&) {
        const CUresult result = session_->PhysicalExport(r.handle, shared_out_);
        if (result != cuda_abi::CUDA_SUCCESS) return result;
        if (shared_out_->name_fd() < 0) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
        fds_out_ = {shared_out_->name_fd()};
        return cuda_abi::CUDA_SUCCESS;
      });
    case Op::kPhysicalImport:
      return Handle<request::PhysicalImport>(body, [&](const auto&, auto& reply) {
        return received_.count == 1 ? session_->PhysicalImport(received_.fds[0], reply.handle)
                                    : cuda_abi::CUDA_ERROR_INVALID_VALUE;
      });
    case Op::kMap:
      return Handle<request::Map>(body, [&](const auto& r, auto&) { return session_->Map(r); });
    case Op::kUnmap:
      return Handle<request::Unmap>(body, [&](const auto& r, auto&) { return session_->Unmap(r.base, r.bytes); });
    case Op::kSetAccess: {
      std::vector<AccessDescription> descriptions(payload.size() / sizeof(AccessDescription));
      if (payload.size() != descriptions.size() * sizeof(AccessDescription)) return false;
      if (!payload.empty()) std::memcpy(descriptions.data(), payload.data(), payload.size());
      return Handle<request::SetAccess>(body,
                                        [&](const auto& r, auto&) { return session_->SetAccess(r, descriptions); });
    }
    case Op::kGetAccess:
      return Handle<request::GetAccess>(
          body, [&](const auto& r, auto& reply) { return session_->GetAccess(r.address, r.ordinal, reply.flags); });
    case Op::kIpcExport:
      return HandleIn<request::IpcExport>(
          body, [&](const auto& r, auto& reply) { return session_->IpcExport(r.address, reply); });
    case Op::kIpcOpen:
      return HandleIn<request::IpcOpen>(
          body, [&](const auto& r, auto& reply) { return session_->IpcOpen(context_, r, reply.address); });
    case Op::kIpcClose:
      return HandleIn<request::IpcClose>(
          body, [&](const auto& r, auto& reply) { return session_->IpcClose(r.address, reply.freed_bytes); });
    default:
      return DispatchStream(op, body);
  }
}

bool Connection::DispatchStream(Op op, std::span<const std::byte> body) {
  switch (op) {
    case Op::kStreamCreate:
      return HandleIn<request::StreamCreate>(body, [&](const auto& r, auto& reply) {
        return session_->StreamCreate(context_, r.flags, r.priority, reply.stream);
      });
    case Op::kStreamDestroy:
      return Handle<request::StreamDestroy>(body,
                                            [&](const auto& r, auto&) { return session_->StreamDestroy(r.stream); });
    case Op::kStreamWait:
      return HandleIn<request::StreamWait>(
          body, [&](const auto& r, auto&) { return session_->StreamWait(context_, r.stream); });
    case Op::kStreamQuery:
      return HandleIn<request::StreamQuery>(
          body, [&](const auto& r, auto&) { return session_->StreamQuery(context_, r.stream); });
    case Op::kStreamWaitEvent:
      return HandleIn<request::StreamWaitEvent>(
          body, [&](const auto& r, auto&) { return session_->StreamWaitEvent(context_, r.stream, r.event); });
    case Op::kStreamInfo:
      return HandleIn<request::StreamInfo>(
          body, [&](const auto& r, auto& reply) { return session_->StreamInfo(context_, r.stream, reply); });
    case Op::kHostFunction:
      return HandleIn<request::HostFunction>(body,
                                             [&](const auto& r, auto&) { return session_->HostFunction(context_, r); });
    case Op::kEventCreate:
      return HandleIn<request::EventCreate>(
          body, [&](const auto& r, auto& reply) { return session_->EventCreate(context_, r.flags, reply.event); });
    case Op::kEventDestroy:
      return Handle<request::EventDestroy>(body, [&](const auto& r, auto&) { return session_->EventDestroy(r.event); });
    case Op::kEventRecord:
      return HandleIn<request::EventRecord>(
          body, [&](const auto& r, auto&) { return session_->EventRecord(context_, r.event, r.stream); });
    case Op::kEventQuery:
      return Handle<request::EventQuery>(body, [&](const auto& r, auto&) { return session_->EventQuery(r.event); });
    case Op::kEventWait:
      return Handle<request::EventWait>(body, [&](const auto& r, auto&) { return session_->EventWait(r.event); });
    case Op::kEventElapsed:
      return Handle<request::EventElapsed>(
          body, [&](const auto& r, auto& reply) { return session_->EventElapsed(r.start, r.end, reply.nanoseconds); });
    default:
      return false;
  }
}

CUresult Connection::LoadModule(const request::ModuleLoad& load, request::ModuleLoad::Reply& reply) {
  if (received_.count != 1 || load.text_bytes > kMaxModuleTextBytes) return cuda_abi::CUDA_ERROR_INVALID_IMAGE;
  if (!IsMemoryFile(received_.fds[0], load.text_bytes)) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  auto text = ReadAll(received_.fds[0], load.text_bytes);
  if (!text) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  return session_->ModuleLoad(context_, std::move(*text), reply.module);
}

bool Connection::DispatchModule(Op op, std::span<const std::byte> body, std::span<const std::byte> payload) {
  const std::string_view name(reinterpret_cast<const char*>(payload.data()), payload.size());
  switch (op) {
    case Op::kModuleLoad:
      return HandleIn<request::ModuleLoad>(body, [&](const auto& r, auto& reply) { return LoadModule(r, reply); });
    case Op::kModuleUnload:
      return Handle<request::ModuleUnload>(body,
                                           [&](const auto& r, auto&) { return session_->ModuleUnload(r.module); });
    case Op::kModuleFunction:
      return Handle<request::ModuleFunction>(body, [&](const auto& r, auto& reply) {
        std::vector<ParameterPlace> places;
        const CUresult result = session_->ModuleFunction(r.module, name, reply, places);
        Give(std::as_bytes(std::span(places)));
        return result;
      });
    case Op::kModuleGlobal:
      return Handle<request::ModuleGlobal>(body, [&](const auto& r, auto& reply) {
        return session_->ModuleGlobal(r.module, name, reply.address, reply.bytes);
      });
    case Op::kModuleKernel:
      return Handle<request::ModuleKernel>(body, [&](const auto& r, auto& reply) {
        std::string text;
        const CUresult result = session_->ModuleKernel(r.module, r.index, reply.count, text);
        Give(std::as_bytes(std::span(text)));
        return result;
      });
    case Op::kFunctionInfo:
      return Handle<request::FunctionInfo>(body, [&](const auto& r, auto& reply) {
        std::string text;
        const CUresult result = session_->FunctionInfo(r.function, reply, text);
        Give(std::as_bytes(std::span(text)));
        return result;
      });
    case Op::kFunctionSet:
      return Handle<request::FunctionSet>(
          body, [&](const auto& r, auto&) { return session_->FunctionSet(r.function, r.max_dynamic_shared_bytes); });
    case Op::kLaunch:
      return HandleIn<request::Launch>(body,
                                       [&](const auto& r, auto&) { return session_->Launch(context_, r, payload); });
    default:
      return false;
  }
}

}  // namespace

void ServeConnection(Server& server, int socket, pid_t peer) {
  try {
    Connection(server, socket, peer).Serve();
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "softgpud: closed the connection of process %d: out of memory\n", static_cast<int>(peer));
  }
}

}  // namespace softgpu
