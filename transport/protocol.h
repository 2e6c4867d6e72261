// The numbers and names of docs/wire_protocol.md.
#pragma once

#include <cstddef>
#include <string_view>

namespace gpumig {

inline constexpr std::string_view kProtocolVersion = "v1";

inline constexpr std::size_t kMaxHeadBytes = 16 << 10;       // request line and headers
inline constexpr std::size_t kMaxHeaderLineBytes = 2 << 10;  // also of the request line
inline constexpr std::size_t kMaxHeaderCount = 48;

inline constexpr std::size_t kDigestBytes = 32;
inline constexpr std::size_t kMaxDigestsPerRequest = 4096;
inline constexpr std::size_t kMaxChunkBodyBytes = (4 << 20) + (64 << 10);
inline constexpr std::size_t kMaxMessageBodyBytes = 16 << 20;

}  // namespace gpumig
