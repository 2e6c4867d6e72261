#include "core/session/workload_facts.h"

#include "tests/support/matchers.h"

namespace gpumig {
namespace {

WorkloadFacts Sample() {
  WorkloadFacts facts;
  facts.name = "trainer";
  facts.created = "2026-01-31T12:34:56Z";
  facts.node = "node-a";
  facts.kernel = "6.1.0";
  facts.machine = "x86_64";
  facts.criu_version = "4.2.1";
  facts.tree = {
      .inner_root = 2, .inner_ids = {2, 3, 7}, .session_outside = false, .process_count = 2, .resident_bytes = 4096};
  facts.gpu.driver = "a driver";
  facts.gpu.device_bytes = 1 << 20;
  facts.gpu.inner_processes = {2};
  facts.gpu.gpus = {{"GPU-1", "chip", "0000:01:00.0", 100, 40}};
  facts.output_file = "/var/lib/gpumig/output/trainer-0123abcd.log";
  return facts;
}

// The facts with one member of their JSON replaced.
Result<WorkloadFacts> WithMember(const std::string& pointer, const Json& value) {
  Json json = *ParseJson(ToJson(Sample()));
  json[nlohmann::json_pointer<std::string>(pointer)] = value;
  return ParseWorkloadFacts(ToText(json));
}

TEST(WorkloadFactsTest, ReadsBackWhatWasWritten) {
  const auto facts = ParseWorkloadFacts(ToJson(Sample()));
  ASSERT_THAT(facts, IsOk());
  EXPECT_EQ(ToJson(*facts), ToJson(Sample()));
  EXPECT_TRUE(facts->uses_gpu());
  EXPECT_EQ(facts->device_path(), "host");
}

TEST(WorkloadFactsTest, AnotherVersionIsRefusedNamingBoth) {
  EXPECT_THAT(WithMember("/version", 2), FailsWith(ErrorCode::kUnsupported, "version 2, this gpumig reads version 1"));
}

TEST(WorkloadFactsTest, ANameThatIsAPathIsRefused) {
  for (const char* name : {"../x", "a/b", "", ".hidden", "a b"}) {
    EXPECT_THAT(WithMember("/name", name), FailsWith(ErrorCode::kDamaged, "impossible name")) << name;
  }
}

TEST(WorkloadFactsTest, IdsThatNoKernelGivesAreRefused) {
  EXPECT_THAT(WithMember("/tree/inner_root", 0), FailsWith(ErrorCode::kDamaged, "inner_root"));
  EXPECT_THAT(WithMember("/tree/inner_ids/1", -1), FailsWith(ErrorCode::kDamaged, "inner_ids"));
  EXPECT_THAT(WithMember("/tree/inner_ids/1", 99999999), FailsWith(ErrorCode::kDamaged, "inner_ids"));
  EXPECT_THAT(WithMember("/tree/process_count", 4), FailsWith(ErrorCode::kDamaged, "process_count"));
  EXPECT_THAT(WithMember("/tree/process_count", 0), FailsWith(ErrorCode::kDamaged, "process_count"));
}

TEST(WorkloadFactsTest, EveryMemberIsNeeded) {
  const Json whole = *ParseJson(ToJson(Sample()));
  for (const auto& [key, value] : whole.items()) {
    Json json = whole;
    json.erase(key);
    EXPECT_FALSE(ParseWorkloadFacts(ToText(json)).has_value()) << key;
  }
}

}  // namespace
}  // namespace gpumig
