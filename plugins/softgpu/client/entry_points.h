// The driver functions that this library exports, as cuda_functions.inc lists them, and what they share.
#pragma once

#include <cstdint>

#include "plugins/cuda_abi/cuda_functions.h"
#include "plugins/softgpu/client/client.h"

#pragma GCC visibility push(default)
extern "C" {
#define CUDA_ABI_FUNCTION(symbol, base_name, since, ...) cuda_abi::fn::symbol symbol;
#define CUDA_ABI_STREAM_FUNCTION(symbol, base_name, since, suffix, suffix_since, ...) cuda_abi::fn::symbol symbol;
#include "plugins/cuda_abi/cuda_functions.inc"
}
#pragma GCC visibility pop

namespace softgpu {

// The handles that applications hold are ids in the shape of pointers.
template <typename Handle>
Handle ToHandle(Id id) {
  return reinterpret_cast<Handle>(id);  // NOLINT(performance-no-int-to-ptr): never dereferenced.
}
template <typename Handle>
Id ToId(Handle handle) {
  return reinterpret_cast<Id>(handle);
}

inline std::uint64_t ToAddress(const void* pointer) { return reinterpret_cast<std::uint64_t>(pointer); }
inline void* ToPointer(std::uint64_t address) {
  return reinterpret_cast<void*>(address);  // NOLINT(performance-no-int-to-ptr)
}

// The calling thread's stack of contexts.
struct ContextStack {
  static constexpr int kMaxDepth = 64;
  Id contexts[kMaxDepth];
  int depth;

  Id current() const { return depth == 0 ? 0 : contexts[depth - 1]; }
};
ContextStack& CurrentContexts();

// Sends a request in the calling thread's context. NOT_INITIALIZED before cuInit.
template <typename Request>
cuda_abi::CUresult CallDaemon(const Request& request, typename Request::Reply& reply,
                              std::span<const std::byte> payload = {}, std::span<std::byte>* reply_payload = nullptr,
                              int fd = -1, int* reply_fd = nullptr) {
  Client* client = Client::Get();
  if (client == nullptr) return cuda_abi::CUDA_ERROR_NOT_INITIALIZED;
  return client->Call(CurrentContexts().current(), request, reply, payload, reply_payload, fd, reply_fd);
}
template <typename Request>
cuda_abi::CUresult CallDaemon(const Request& request) {
  typename Request::Reply reply{};
  return CallDaemon(request, reply);
}

}  // namespace softgpu
