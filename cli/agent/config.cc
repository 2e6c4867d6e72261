#include "cli/agent/config.h"

#include <toml++/toml.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "core/base/byte_rate.h"
#include "core/base/file.h"

namespace gpumig {
namespace {

Error Wrong(std::string_view key, std::string_view wanted) {
  return MakeError(ErrorCode::kInvalidArgument, "'{}' is missing or is not {}", key, wanted);
}

Result<void> CheckKeys(const toml::table& table, std::string_view where, const std::set<std::string_view>& known) {
  for (const auto& [key, value] : table) {
    if (!known.contains(key.str())) {
      return MakeError(ErrorCode::kInvalidArgument, "line {}: {}'{}' is no setting of gpumigd",
                       value.source().begin.line, where, key.str());
    }
  }
  return Ok();
}

Result<std::string> Text(const toml::table& table, std::string_view key) {
  const std::optional<std::string> value = table[key].value<std::string>();
  if (!value || value->empty()) return Wrong(key, "a text");
  return *value;
}

Result<void> ReadDirectories(const toml::table& root, Site& site) {
  if (!root.contains("directories")) return Ok();
  const toml::table* table = root["directories"].as_table();
  if (table == nullptr) return Wrong("directories", "a table");
  GPUMIG_TRY(CheckKeys(*table, "directories: ", {"runtime", "state", "staging"}));
  for (auto& [key, directory] :
       {std::pair("runtime", &site.runtime_directory), std::pair("state", &site.state_directory),
        std::pair("staging", &site.staging_directory)}) {
    if (table->contains(key)) *directory = GPUMIG_TRY(Text(*table, key));
  }
  return Ok();
}

Result<void> ReadPeers(const toml::table& root, std::vector<PeerConfig>& peers) {
  if (!root.contains("peers")) return Ok();
  const toml::array* list = root["peers"].as_array();
  if (list == nullptr) return Wrong("peers", "a list of tables [[peers]]");
  for (const toml::node& node : *list) {
    const toml::table* table = node.as_table();
    if (table == nullptr) return Wrong("peers", "a list of tables [[peers]]");
    GPUMIG_TRY(CheckKeys(*table, "peers: ", {"name", "address"}));
    PeerConfig peer;
    peer.name = GPUMIG_TRY(Text(*table, "name"));
    peer.address = GPUMIG_TRY(ParseHostPort(GPUMIG_TRY(Text(*table, "address"))));
    peers.push_back(std::move(peer));
  }
  return Ok();
}

Result<void> ReadSending(const toml::table& root, AgentConfig& config) {
  if (!root.contains("sending")) return Ok();
  const toml::table* table = root["sending"].as_table();
  if (table == nullptr) return Wrong("sending", "a table");
  GPUMIG_TRY(CheckKeys(*table, "sending: ", {"compress", "bandwidth", "connections"}));
  if (table->contains("compress")) {
    config.compress = GPUMIG_TRY(CompressionChoice::Parse(GPUMIG_TRY(Text(*table, "compress"))), "sending");
  }
  if (table->contains("bandwidth")) {
    config.bandwidth = GPUMIG_TRY(ParseByteRate(GPUMIG_TRY(Text(*table, "bandwidth"))), "sending: bandwidth");
  }
  if (table->contains("connections")) {
    const std::optional<std::int64_t> count = (*table)["connections"].value<std::int64_t>();
    if (!count || *count < 1 || *count > 16) return Wrong("connections", "a number from 1 to 16");
    config.connections = static_cast<std::uint32_t>(*count);
  }
  return Ok();
}

Result<void> ReadCache(const toml::table& root, CacheLimits& limits) {
  for (const auto& [key, setting] :
       {std::pair("cache_bytes", &limits.kept_bytes), std::pair("cache_reserve_bytes", &limits.reserve_bytes)}) {
    if (!root.contains(key)) continue;
    const std::optional<std::int64_t> bytes = root[key].value<std::int64_t>();
    if (!bytes || *bytes < 0) return Wrong(key, "a number of bytes, 0 or more");
    *setting = static_cast<std::uint64_t>(*bytes);
  }
  return Ok();
}

Result<AgentConfig> Read(const toml::table& root) {
  GPUMIG_TRY(CheckKeys(
      root, "",
      {"node", "listen", "identity", "cache_bytes", "cache_reserve_bytes", "directories", "peers", "sending"}));
  AgentConfig config;
  config.site = Site::FromEnvironment();
  config.node = GPUMIG_TRY(Text(root, "node"));
  config.listen = GPUMIG_TRY(ParseHostPort(GPUMIG_TRY(Text(root, "listen"))));
  config.identity = GPUMIG_TRY(Text(root, "identity"));
  GPUMIG_TRY(ReadDirectories(root, config.site));
  GPUMIG_TRY(ReadCache(root, config.cache));
  GPUMIG_TRY(ReadPeers(root, config.peers));
  GPUMIG_TRY(ReadSending(root, config));
  return config;
}

}  // namespace

Result<HostPort> ParseHostPort(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  HostPort parsed;
  if (colon != std::string::npos && colon > 0) {
    parsed.host = text.substr(0, colon);
    if (parsed.host.front() == '[' && parsed.host.back() == ']')
      parsed.host = parsed.host.substr(1, parsed.host.size() - 2);
    const char* last = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + colon + 1, last, parsed.port);
    if (error == std::errc() && stop == last && parsed.port != 0 && !parsed.host.empty()) return parsed;
  }
  return MakeError(ErrorCode::kInvalidArgument, "'{}' is not HOST:PORT", text);
}

const PeerConfig* AgentConfig::FindPeer(const std::string& name) const {
  const auto found =
      std::find_if(peers.begin(), peers.end(), [&](const PeerConfig& peer) { return peer.name == name; });
  return found == peers.end() ? nullptr : &*found;
}

Result<AgentConfig> LoadAgentConfig(const std::filesystem::path& file) {
  const std::string text = GPUMIG_TRY(ReadTextFile(file, 1 << 20));
  try {
    return GPUMIG_TRY(Read(toml::parse(text)), "{}", file.string());
  } catch (const toml::parse_error& error) {
    return MakeError(ErrorCode::kInvalidArgument, "{}: line {}: {}", file.string(), error.source().begin.line,
                     error.description());
  }
}

}  // namespace gpumig
