#include "core/image/codec_policy.h"

#include "tests/core/image/image_fixture.h"

namespace gpumig {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr double kGbit = 1e9 / 8;

// What a probe of bf16 weights gives: only the second plane is worth coding.
ChunkProbe Bf16Probe() {
  return {.bits = 6.1, .bits_of_2 = {8, 2.7}, .bits_of_4 = {8, 2.7, 8, 2.7}, .zstd_ratio = 1.28, .zstd_fast_ratio = 1};
}
ChunkProbe RandomProbe() { return {}; }
ChunkProbe TextProbe() {
  return {.bits = 4.6,
          .bits_of_2 = {4.6, 4.6},
          .bits_of_4 = {4.6, 4.6, 4.6, 4.6},
          .zstd_ratio = 2.6,
          .zstd_fast_ratio = 1.8};
}

CodecPolicy PolicyFor(double bytes_per_second, unsigned cores = 1) {
  return CodecPolicy({.cores = cores, .assumed_bytes_per_second = bytes_per_second});
}

class PolicyClock {
 public:
  CodecPolicy::TimePoint now() const { return now_; }
  void Advance(std::chrono::nanoseconds by) { now_ += by; }

 private:
  CodecPolicy::TimePoint now_{std::chrono::hours(1000)};
};

// One after the other over a link of this rate.
void Send(CodecPolicy& policy, PolicyClock& clock, double bytes_per_second, int chunks,
          std::chrono::nanoseconds cpu = {}) {
  const std::uint64_t bytes = 4 << 20;
  for (int i = 0; i < chunks; ++i) {
    policy.SendBegins(bytes, clock.now());
    clock.Advance(
        std::chrono::nanoseconds(static_cast<std::int64_t>(1e9 * static_cast<double>(bytes) / bytes_per_second)));
    policy.SendEnds(bytes, true, clock.now(), cpu);
  }
}

TEST(CodecPolicyTest, TheSlowerTheLinkTheMoreWorkItIsWorth) {
  EXPECT_EQ(PolicyFor(0.1 * kGbit).Choose(TextProbe()), CodecMethod::kZstd3);
  EXPECT_EQ(PolicyFor(1 * kGbit).Choose(TextProbe()), CodecMethod::kZstd1);
  EXPECT_EQ(PolicyFor(100 * kGbit).Choose(TextProbe()), CodecMethod::kRaw);
  EXPECT_EQ(PolicyFor(1 * kGbit).Choose(Bf16Probe()), CodecMethod::kPlanes2);
  EXPECT_EQ(PolicyFor(100 * kGbit).Choose(Bf16Probe()), CodecMethod::kRaw);
  // Sixteen cores keep up with a faster link.
  EXPECT_EQ(PolicyFor(100 * kGbit, 16).Choose(Bf16Probe()), CodecMethod::kPlanes2);
}

TEST(CodecPolicyTest, NothingIsDoneWithRandomBytesOnAnyLink) {
  for (const double gbit : {0.001, 0.1, 1.0, 10.0, 100.0}) {
    EXPECT_EQ(PolicyFor(gbit * kGbit).Choose(RandomProbe()), CodecMethod::kRaw) << gbit;
  }
}

TEST(CodecPolicyTest, AMeasuredLinkCountsMoreThanTheAssumedOne) {
  CodecPolicy policy = PolicyFor(1 * kGbit);
  PolicyClock clock;
  ASSERT_EQ(policy.Choose(Bf16Probe()), CodecMethod::kPlanes2);
  EXPECT_EQ(policy.measured_link_bytes_per_second(), std::nullopt);
  Send(policy, clock, 100 * kGbit, 20);
  EXPECT_NEAR(policy.link_bytes_per_second(), 100 * kGbit, kGbit);
  EXPECT_EQ(policy.Choose(Bf16Probe()), CodecMethod::kRaw);
  // The link gets worse. Idle time in between says nothing about it.
  clock.Advance(std::chrono::hours(1));
  Send(policy, clock, 1 * kGbit, 200);
  EXPECT_NEAR(policy.link_bytes_per_second(), 1 * kGbit, 0.05 * kGbit);
  EXPECT_EQ(policy.Choose(Bf16Probe()), CodecMethod::kPlanes2);
}

TEST(CodecPolicyTest, SendingsSideBySideShareTheLink) {
  CodecPolicy policy = PolicyFor(100 * kGbit);
  PolicyClock clock;
  const std::uint64_t bytes = 4 << 20;
  for (int i = 0; i < 4; ++i) policy.SendBegins(bytes, clock.now());
  for (int i = 0; i < 100; ++i) {
    clock.Advance(milliseconds(10));  // one of four ends every 10 ms
    policy.SendEnds(bytes, true, clock.now(), {});
    policy.SendBegins(bytes, clock.now());
  }
  EXPECT_NEAR(policy.link_bytes_per_second(), static_cast<double>(bytes) * 100, 1e6);
}

TEST(CodecPolicyTest, WhatDidNotArriveDoesNotMakeTheLinkFaster) {
  CodecPolicy policy = PolicyFor(1e9);
  PolicyClock clock;
  Send(policy, clock, 1e8, 20);
  policy.SendBegins(std::uint64_t{1} << 40, clock.now());
  clock.Advance(milliseconds(1));
  policy.SendEnds(std::uint64_t{1} << 40, false, clock.now(), {});
  EXPECT_LE(policy.link_bytes_per_second(), 1.01e8);
}

TEST(CodecPolicyTest, ABandwidthLimitIsTheLinksRate) {
  CodecPolicy policy({.cores = 1, .assumed_bytes_per_second = 100 * kGbit, .most_bytes_per_second = 0.1 * kGbit});
  PolicyClock clock;
  EXPECT_EQ(policy.Choose(TextProbe()), CodecMethod::kZstd3);
  Send(policy, clock, 100 * kGbit, 20);
  EXPECT_EQ(policy.link_bytes_per_second(), 0.1 * kGbit);
  EXPECT_EQ(policy.Choose(TextProbe()), CodecMethod::kZstd3);
}

TEST(CodecPolicyTest, EncodersThatTurnOutSlowAreLeftForThoseThatAreNot) {
  CodecPolicy policy = PolicyFor(1 * kGbit);
  ASSERT_EQ(policy.Choose(TextProbe()), CodecMethod::kZstd1);
  // 10 MB/s: less than the link carries as it is.
  for (int i = 0; i < 10; ++i)
    policy.LearnEncoding(CodecMethod::kZstd1, TextProbe(), 4 << 20, 4 << 19, milliseconds(420));
  EXPECT_EQ(policy.Choose(TextProbe()), CodecMethod::kRaw);  // nor would the others do better on such a machine
  // Of data that is not like that nothing else is known than that the machine is slow.
  EXPECT_EQ(policy.Choose(Bf16Probe()), CodecMethod::kRaw);
  EXPECT_EQ(policy.chunks_by_method()[static_cast<std::size_t>(CodecMethod::kZstd1)], 10u);
}

TEST(CodecPolicyTest, WhatDoesNotGetSmallerAsPromisedIsSentRaw) {
  CodecPolicy policy = PolicyFor(10 * kGbit);
  ASSERT_EQ(policy.Choose(Bf16Probe()), CodecMethod::kPlanes2);
  for (int i = 0; i < 60 && policy.Choose(Bf16Probe()) != CodecMethod::kRaw; ++i)
    policy.LearnEncoding(policy.Choose(Bf16Probe()), Bf16Probe(), 4 << 20, 4 << 20, microseconds(2600));
  EXPECT_EQ(policy.Choose(Bf16Probe()), CodecMethod::kRaw);
}

// Where both ends spend their cores on sending, encoding has to pay for itself in processor time.
TEST(CodecPolicyTest, SendersThatNeedTheCoresLeaveNoneToEncoders) {
  CodecPolicy idle = PolicyFor(1e9);
  CodecPolicy busy = PolicyFor(1e9);
  PolicyClock clock;
  Send(idle, clock, 0.5e9, 20, microseconds(100));
  Send(busy, clock, 0.5e9, 20, std::chrono::nanoseconds(static_cast<std::int64_t>(1e9 * (4 << 20) / 0.5e9)));
  ChunkProbe half_zero = TextProbe();
  half_zero.zstd_ratio = 1.3;
  half_zero.zstd_fast_ratio = 1.3;
  half_zero.bits = 8;
  half_zero.bits_of_2 = {8, 8};
  half_zero.bits_of_4 = {8, 8, 8, 8};
  EXPECT_NE(idle.Choose(half_zero), CodecMethod::kRaw);
  EXPECT_EQ(busy.Choose(half_zero), CodecMethod::kRaw);
}

TEST(ChunkProbeTest, TellsKindsOfBytesApart) {
  ChunkProber prober;
  const ChunkProbe bf16 = prober.Look(Bf16(kMaxChunkBytes, 1));
  EXPECT_NEAR(EstimateOf(bf16, CodecMethod::kPlanes2).ratio, 1.49, 0.05);
  EXPECT_EQ(EstimateOf(bf16, CodecMethod::kPlanes2).coded_planes, 0x2);
  EXPECT_EQ(EstimateOf(bf16, CodecMethod::kPlanes4).coded_planes, 0xa);
  const ChunkProbe fp32 = prober.Look(Fp32(kMaxChunkBytes, 1));
  EXPECT_NEAR(EstimateOf(fp32, CodecMethod::kPlanes4).ratio, 1.2, 0.03);
  EXPECT_EQ(EstimateOf(fp32, CodecMethod::kPlanes4).coded_planes, 0x8);
  const ChunkProbe random = prober.Look(Random(kMaxChunkBytes, 1));
  const ChunkProbe repetitive = prober.Look(Repetitive(kMaxChunkBytes, 1));
  for (std::size_t i = 0; i < kCodecMethodCount; ++i)
    EXPECT_EQ(EstimateOf(random, static_cast<CodecMethod>(i)).ratio, 1) << i;
  EXPECT_GT(EstimateOf(repetitive, CodecMethod::kZstd1).ratio, 20);
}

TEST(ChunkProbeTest, LooksAtChunksOfAnySize) {
  ChunkProber prober;
  for (const std::size_t size : {1, 2, 3, 16383, 16384, 16385, 24577, 100001}) {
    const ChunkProbe probe = prober.Look(Fp32(size, size));
    EXPECT_GE(probe.bits, 0) << size;
    EXPECT_LE(probe.bits, 8) << size;
    EXPECT_GE(probe.zstd_ratio, 1) << size;
  }
}

}  // namespace
}  // namespace gpumig
