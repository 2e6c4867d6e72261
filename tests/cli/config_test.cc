#include "cli/agent/config.h"

#include <fstream>

#include "core/base/file.h"
#include "tests/support/matchers.h"

namespace gpumig {
namespace {

constexpr const char* kWhole = R"(
node = "node-a"
listen = "10.0.0.1:7443"
identity = "/etc/gpumig/identity"
cache_bytes = 0
[directories]
state = "/srv/gpumig"
[sending]
connections = 4
bandwidth = "800Mbit"
[[peers]]
name = "node-b"
address = "[::1]:7444"
)";

Result<AgentConfig> Load(const std::string& text) {
  auto directory = TemporaryDirectory::Create(testing::TempDir(), "config-test");
  const auto file = directory->path() / "gpumigd.toml";
  std::ofstream(file) << text;
  return LoadAgentConfig(file);
}

std::string Replaced(std::string text, const std::string& what, const std::string& with) {
  return text.replace(text.find(what), what.size(), with);
}

TEST(AgentConfigTest, ReadsEverySetting) {
  const auto config = Load(kWhole);
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->node, "node-a");
  EXPECT_EQ(config->listen.host, "10.0.0.1");
  EXPECT_EQ(config->listen.port, 7443);
  EXPECT_EQ(config->site.state_directory, "/srv/gpumig");
  EXPECT_EQ(config->connections, 4u);
  EXPECT_EQ(config->cache.kept_bytes, 0u);
  EXPECT_GT(config->cache.reserve_bytes, 0u);
  EXPECT_EQ(config->bandwidth, 100'000'000u);
  EXPECT_TRUE(config->compress.automatic);
  ASSERT_NE(config->FindPeer("node-b"), nullptr);
  EXPECT_EQ(config->FindPeer("node-b")->address.host, "::1");
  EXPECT_EQ(config->FindPeer("node-z"), nullptr);
}

TEST(AgentConfigTest, WithoutSettingsForSendingThereIsNoLimit) {
  const auto config = Load(Replaced(kWhole, "bandwidth = \"800Mbit\"", "compress = \"zstd:3\""));
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->bandwidth, std::nullopt);
  EXPECT_EQ(config->compress.zstd_level, 3);
  EXPECT_FALSE(config->compress.automatic);
}

TEST(AgentConfigTest, TheSampleInTheDocumentsIsRight) { EXPECT_THAT(LoadAgentConfig(SAMPLE_CONFIG), IsOk()); }

TEST(AgentConfigTest, AMistypedKeyIsAnErrorThatNamesItsLine) {
  EXPECT_THAT(Load(Replaced(kWhole, "connections", "conections")),
              FailsWith(ErrorCode::kInvalidArgument, "line 9: sending: 'conections'"));
}

TEST(AgentConfigTest, WhatIsMissingOrOfTheWrongKindIsNamed) {
  EXPECT_THAT(Load(Replaced(kWhole, "node = \"node-a\"", "")), FailsWith(ErrorCode::kInvalidArgument, "'node'"));
  EXPECT_THAT(Load(Replaced(kWhole, ":7443", "")), FailsWith(ErrorCode::kInvalidArgument, "HOST:PORT"));
  EXPECT_THAT(Load(Replaced(kWhole, "= 4", "= 400")), FailsWith(ErrorCode::kInvalidArgument, "'connections'"));
  EXPECT_THAT(Load(Replaced(kWhole, "cache_bytes = 0", "cache_bytes = -1")),
              FailsWith(ErrorCode::kInvalidArgument, "'cache_bytes'"));
  EXPECT_THAT(Load(Replaced(kWhole, "800Mbit", "800")), FailsWith(ErrorCode::kInvalidArgument, "sending: bandwidth"));
  EXPECT_THAT(Load(Replaced(kWhole, "connections = 4", "compress = \"gzip\"")),
              FailsWith(ErrorCode::kInvalidArgument, "compression 'gzip'"));
  EXPECT_THAT(Load("node = "), FailsWith(ErrorCode::kInvalidArgument, "line 1"));
  EXPECT_THAT(LoadAgentConfig("/no/such/file"), FailsWith(ErrorCode::kNotFound, "/no/such/file"));
}

TEST(HostPortTest, RefusesWhatIsNoAddress) {
  for (const char* text : {"", "host", ":1", "host:", "host:0", "host:65536", "host:1x", "[]:1"}) {
    EXPECT_THAT(ParseHostPort(text), FailsWith(ErrorCode::kInvalidArgument, "HOST:PORT")) << text;
  }
}

}  // namespace
}  // namespace gpumig
