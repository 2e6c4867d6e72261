// AgentConfig: the file that gpumigd is started with. docs/gpumigd.toml is a commented sample.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/base/result.h"
#include "core/image/chunk_cache.h"
#include "core/image/chunk_codec.h"
#include "core/session/site.h"

namespace gpumig {

// "10.0.0.1:7443", "[::1]:7443", "node-b.example:7443"
struct HostPort {
  std::string host;
  std::uint16_t port = 0;
};
// Errors: kInvalidArgument.
Result<HostPort> ParseHostPort(const std::string& text);

struct PeerConfig {
  std::string name;
  HostPort address;
};

struct AgentConfig {
  std::string node;
  HostPort listen;
  std::filesystem::path identity;  // directory that `gpumig certs issue` made
  Site site;
  std::vector<PeerConfig> peers;
  CompressionChoice compress = CompressionChoice::Auto();
  std::optional<std::uint64_t> bandwidth;  // bytes per second of one migration; none: no limit
  std::uint32_t connections = 4;           // for sending, to one peer
  CacheLimits cache;

  std::filesystem::path socket() const { return site.runtime_directory / "gpumigd.sock"; }
  std::filesystem::path journals() const { return site.state_directory / "journals"; }
  // Null: no such peer.
  const PeerConfig* FindPeer(const std::string& name) const;
};

// Errors: kNotFound; kInvalidArgument naming file, line or key. A key that means nothing is an error: a typing mistake
// in a configuration must not pass for a setting.
Result<AgentConfig> LoadAgentConfig(const std::filesystem::path& file);

}  // namespace gpumig
