// Loads and stores whose addresses follow a pattern go ways of their own. Here each thread takes its address from a
// table, and whatever is in that table, the outcome must be that of the threads one after the other.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "tests/plugins/softgpu/ptx/machine.h"

namespace softgpu::ptx {
namespace {

using Bytes = std::vector<std::byte>;
using Addresses = std::vector<std::uint64_t>;

struct Access {
  std::uint32_t bytes = 4;  // Of one element.
  std::int64_t displacement = 0;
  bool is_shared = false;
  std::uint32_t first_thread = 0;  // Those before stay away,
  std::uint32_t group = 4096;      // and the last of each group so large.

  bool Has(std::size_t thread) const { return thread >= first_thread && thread % group != group - 1; }
};

// Thread t copies shared[] out of `memory`, has its address, and moves an element between there and out[t].
std::string Text(const Access& access, bool is_load) {
  const std::uint32_t bits = access.bytes * 8;
  const std::string space = access.is_shared ? "shared" : "global";
  const std::string there = fmt::format("[%at+{}]", access.displacement);
  const std::string move =
      is_load ? fmt::format("@%p ld.{}.b{} %v, {};\n  @%p st.global.b{} [%out], %v;", space, bits, there, bits)
              : fmt::format("ld.global.b{} %v, [%out];\n  @%p st.{}.b{} {}, %v;", bits, space, bits, there);
  return fmt::format(R"(.version 7.8
.target sm_80
.address_size 64
.visible .entry test(.param .u64 table, .param .u64 out, .param .u64 memory, .param .u32 count) {{
  .shared .align 16 .b8 own[2048];
  .reg .u64 %table, %out, %memory, %at, %s, %m;
  .reg .b{} %v; .reg .u32 %t, %n, %r, %i; .reg .pred %p, %q; .reg .b8 %b;
  ld.param.u64 %table, [table];
  ld.param.u64 %out, [out];
  ld.param.u64 %memory, [memory];
  mov.u32 %t, %tid.x;
  mov.u32 %n, %ntid.x;
  mad.wide.u32 %table, %t, 8, %table;
  mad.wide.u32 %out, %t, {}, %out;
  ld.global.u64 %at, [%table];
  rem.u32 %r, %t, {};
  setp.ne.u32 %p, %r, {};
  setp.ge.and.u32 %p, %t, {}, %p;
  mov.u32 %i, %t;
in:
  setp.ge.u32 %q, %i, 2048;
  @%q bra copied;
  cvt.u64.u32 %s, %i;
  add.u64 %m, %memory, %s;
  ld.global.b8 %b, [%m];
  st.shared.b8 [%s], %b;
  add.u32 %i, %i, %n;
  bra in;
copied:
  bar.sync 0;
  {}
  bar.sync 0;
  mov.u32 %i, %t;
out:
  setp.ge.u32 %q, %i, {};
  @%q bra done;
  cvt.u64.u32 %s, %i;
  add.u64 %m, %memory, %s;
  ld.shared.b8 %b, [%s];
  st.global.b8 [%m], %b;
  add.u32 %i, %i, %n;
  bra out;
done:
  ret;
}})",
                     std::max(bits, 16u), access.bytes, access.group, access.group - 1, access.first_thread, move,
                     access.is_shared ? 2048 : 0);
}

struct Outcome {
  LaunchStatus status = LaunchStatus::kDone;
  std::string fault = {};
  Bytes memory;
  Bytes out;
};

// Thread after thread.
Outcome Expected(const Access& access, bool is_load, const Addresses& addresses, std::uint64_t base, Bytes memory,
                 Bytes out) {
  Outcome outcome{.memory = std::move(memory), .out = std::move(out)};
  for (std::size_t lane = 0; lane < addresses.size(); ++lane) {
    if (!access.Has(lane)) continue;
    const std::uint64_t address = addresses[lane] + static_cast<std::uint64_t>(access.displacement);
    const std::uint64_t offset = address - (access.is_shared ? 0 : base);
    if (address % access.bytes != 0)
      outcome.status = LaunchStatus::kMisalignedAddress;
    else if (offset > outcome.memory.size() - access.bytes)
      outcome.status = LaunchStatus::kIllegalAddress;
    if (outcome.status != LaunchStatus::kDone) {
      outcome.fault = fmt::format(
          "thread ({}, 0, 0): {} address {:#x}", lane,
          outcome.status == LaunchStatus::kIllegalAddress ? "no access to" : "misaligned access to", address);
      break;
    }
    std::byte* const there = outcome.memory.data() + offset;
    std::byte* const here = outcome.out.data() + lane * access.bytes;
    std::memcpy(is_load ? here : there, is_load ? there : here, access.bytes);
  }
  return outcome;
}

Bytes RandomBytes(std::mt19937_64& random, std::size_t count) {
  Bytes bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// Of `lanes` threads, from `base` on: a line, or runs of lines, perhaps with one thread that is off it, or all too far.
Addresses RandomAddresses(std::mt19937_64& random, std::size_t lanes, std::uint64_t base, std::uint32_t bytes) {
  const std::int64_t steps[] = {0, 1, 1, 1, 1, -1, 2, 3, 16, -2};
  const std::uint64_t step = static_cast<std::uint64_t>(steps[random() % std::size(steps)]) * bytes;
  const std::size_t runs[] = {lanes, lanes, 8, 16, 32, 1, 5};
  const std::size_t run = runs[random() % std::size(runs)];
  const std::uint64_t jump = random() % 5 * bytes * 8;
  const bool falls = step >> 63 != 0;
  const std::uint64_t start = base + (falls ? 1024 : random() % 32 * bytes);
  Addresses addresses(lanes);
  for (std::size_t i = 0; i < lanes; ++i) addresses[i] = start + i % run * step + i / run * jump;
  switch (random() % 6) {
    case 0:
      addresses[random() % lanes] += bytes;
      break;
    case 1:
      addresses[random() % lanes] += 1;
      break;
    case 2:
      for (std::uint64_t& address : addresses) address += 1500;
      break;
    default:
      break;
  }
  return addresses;
}

void Check(std::mt19937_64& random, const Access& access, bool is_load) {
  const std::size_t lanes = 1 + random() % 140;
  Machine machine(Text(access, is_load));
  const std::uint64_t data = machine.Upload(RandomBytes(random, 2048));
  const std::uint64_t out = machine.Upload(RandomBytes(random, lanes * access.bytes));
  const std::uint64_t base = access.is_shared ? 0 : data;
  Addresses addresses = RandomAddresses(random, lanes, base, access.bytes);
  for (std::uint64_t& address : addresses) address -= static_cast<std::uint64_t>(access.displacement);
  const Outcome expected = Expected(access, is_load, addresses, data, machine.Download<std::byte>(data, 2048),
                                    machine.Download<std::byte>(out, lanes * access.bytes));
  const LaunchResult result = machine.Run("test", {}, {static_cast<std::uint32_t>(lanes), 1, 1},
                                          Arguments(machine.Upload(addresses), out, data, std::uint32_t{0}));
  ASSERT_EQ(result.status, expected.status) << result.detail;
  EXPECT_NE(result.detail.find(expected.fault), std::string::npos) << result.detail;
  if (expected.status != LaunchStatus::kDone && (is_load || access.is_shared)) return;  // Nothing of it is to be seen.
  EXPECT_EQ(machine.Download<std::byte>(out, lanes * access.bytes), expected.out);
  EXPECT_EQ(machine.Download<std::byte>(data, 2048), expected.memory);
}

TEST(MemoryOperationsTest, AddressesOfAnyPatternAreAsThreadAfterThread) {
  const unsigned seed = 20261201;
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 3000; ++round) {
    const std::int64_t displacements[] = {0, 64, -64};
    const Access access{.bytes = 1u << random() % 4,
                        .displacement = displacements[random() % 3],
                        .is_shared = random() % 2 == 0,
                        .first_thread = random() % 2 == 0 ? 0 : static_cast<std::uint32_t>(random() % 20),
                        .group = random() % 4 == 0 ? 3u : 4096u};
    const bool is_load = random() % 2 == 0;
    SCOPED_TRACE(fmt::format("round {}: {} of {} bytes", round, is_load ? "load" : "store", access.bytes));
    Check(random, access, is_load);
    if (HasFatalFailure() || HasNonfatalFailure()) return;
  }
}

// The row of addresses is overwritten while it is read.
TEST(MemoryOperationsTest, AddressRegisterMayBeTheDestination) {
  for (const std::uint32_t width : {1u, 8u, 16u, 40u}) {
    SCOPED_TRACE(width);
    Machine machine(R"(.version 7.8
.target sm_80
.address_size 64
.visible .entry test(.param .u64 table, .param .u64 out) {
  .reg .u64 %table, %out; .reg .u32 %t;
  ld.param.u64 %table, [table];
  ld.param.u64 %out, [out];
  mov.u32 %t, %tid.x;
  mad.wide.u32 %table, %t, 8, %table;
  mad.wide.u32 %out, %t, 8, %out;
  ld.global.u64 %table, [%table];
  ld.global.u64 %table, [%table];
  st.global.u64 [%out], %table;
  ret;
})");
    constexpr std::uint32_t kLanes = 75;
    Addresses values(512);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = i * 3;
    const std::uint64_t data = machine.Upload(values);
    Addresses addresses(kLanes);
    for (std::uint64_t i = 0; i < kLanes; ++i) addresses[i] = data + (i / width * 5 + i % width) * 8;
    const std::uint64_t out = machine.Upload(Addresses(kLanes));
    ASSERT_EQ(machine.Run("test", {}, {kLanes, 1, 1}, Arguments(machine.Upload(addresses), out)).status,
              LaunchStatus::kDone);
    const Addresses found = machine.Download<std::uint64_t>(out, kLanes);
    for (std::uint64_t i = 0; i < kLanes; ++i) EXPECT_EQ(found[i], (i / width * 5 + i % width) * 3) << i;
  }
}

}  // namespace
}  // namespace softgpu::ptx
