// Parts of the daemon and the client by themselves: device specs, session states, visible devices, arenas.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <variant>
#include <vector>

#include "plugins/softgpu/client/visible_devices.h"
#include "plugins/softgpu/daemon/arena.h"
#include "plugins/softgpu/daemon/device.h"
#include "plugins/softgpu/daemon/fault_table.h"
#include "plugins/softgpu/daemon/session_state.h"

namespace softgpu {
namespace {

DeviceDescription OnlyDevice(std::string_view spec, std::size_t index) {
  return std::get<std::vector<DeviceDescription>>(ParseDevice(spec, index)).at(0);
}

TEST(ParseDeviceTest, TakesAllPartsAndFillsInTheRest) {
  const auto parsed =
      ParseDevice("memory=3GiB,chip=X 1,uuid=GPU-00112233-4455-6677-8899-aabbccddeeff,pci=0001:0b:1f", 0);
  const DeviceDescription& device = std::get<std::vector<DeviceDescription>>(parsed).front();
  EXPECT_EQ(device.memory_bytes, std::uint64_t{3} << 30);
  EXPECT_STREQ(device.chip, "X 1");
  EXPECT_EQ(ToString(device.uuid), "GPU-00112233-4455-6677-8899-aabbccddeeff");
  EXPECT_EQ(device.pci_domain, 1U);
  EXPECT_EQ(device.pci_bus, 11U);
  EXPECT_EQ(device.pci_device, 31U);
  const auto first = OnlyDevice("", 0);
  const auto second = OnlyDevice("", 1);
  EXPECT_NE(first.uuid, second.uuid);
  EXPECT_NE(first.pci_bus, second.pci_bus);
  EXPECT_GT(first.memory_bytes, 0U);
}

TEST(ParseDeviceTest, PartitionsShareTheirParentsMemoryAndHaveUuidsOfTheirOwn) {
  const auto parsed = ParseDevice("memory=12GiB,chip=X,uuid=GPU-00112233-4455-6677-8899-aabbccddeeff,mig=3,numa=1", 0);
  const auto& parts = std::get<std::vector<DeviceDescription>>(parsed);
  ASSERT_EQ(parts.size(), 3U);
  for (const DeviceDescription& part : parts) {
    EXPECT_EQ(part.memory_bytes, std::uint64_t{4} << 30);
    EXPECT_STREQ(part.chip, "X MIG 2g.4gb");
    EXPECT_EQ(ToString(part.parent), "GPU-00112233-4455-6677-8899-aabbccddeeff");
    EXPECT_NE(part.uuid, part.parent);
    EXPECT_EQ(part.numa_node, 1);
  }
  EXPECT_NE(parts[0].uuid, parts[1].uuid);
  EXPECT_NE(parts[1].uuid, parts[2].uuid);
}

TEST(ParseFaultTest, ReadsNumberValueAndProcess) {
  const auto parsed = ParseFault("F9=500@4242");
  const auto& fault = std::get<FaultSetting>(parsed);
  EXPECT_EQ(fault.fault, 9U);
  EXPECT_EQ(fault.value, 500U);
  EXPECT_EQ(fault.pid, 4242);
  EXPECT_EQ(ToString(fault), "F9=500@4242");
  EXPECT_EQ(ToString(std::get<FaultSetting>(ParseFault("F1"))), "F1");
}

TEST(ParseFaultTest, RefusesWhatIsNoFault) {
  for (const char* text : {"", "F", "F0", "F17", "f1", "F1=", "F1=0", "F1@", "F1@0", "F1@x", "F1 ", "1"}) {
    EXPECT_TRUE(std::holds_alternative<std::string>(ParseFault(text))) << text;
  }
}

TEST(ParseFaultTest, KnowsWhatIsAlwaysSo) {
  for (int number = 1; number <= 16; ++number) {
    const std::string name = "F" + std::to_string(number);
    EXPECT_EQ(WhyAlwaysShown(std::get<FaultSetting>(ParseFault(name))) != nullptr, number == 8 || number == 12) << name;
  }
}

TEST(FaultTableTest, TheSettingOfAProcessBeatsTheOneForAll) {
  FaultTable table;
  EXPECT_TRUE(table.Set({9, 100, 0}));
  EXPECT_TRUE(table.Set({9, 200, 7}));
  EXPECT_EQ(ValueOf(table.For(7), Fault::kSlowInit), 200U);
  EXPECT_EQ(ValueOf(table.For(8), Fault::kSlowInit), 100U);
  EXPECT_TRUE(table.Set({9, 0, 7}));
  EXPECT_EQ(ValueOf(table.For(7), Fault::kSlowInit), 100U);
  EXPECT_FALSE(table.Set({99, 1, 0}));
  table.ClearAll();
  EXPECT_TRUE(table.All().empty());
}

TEST(DeviceTest, BandwidthIsSharedByAllWhoCopy) {
  DeviceDescription description;
  Device fast(description);
  const auto now = std::chrono::steady_clock::now();
  const auto at_once = fast.WhenMoved(std::uint64_t{1} << 40);
  EXPECT_LE(at_once, std::chrono::steady_clock::now());
  description.copy_bytes_per_second = 1000;
  Device slow(description);
  slow.WhenMoved(1000);
  const auto end = slow.WhenMoved(2000);
  EXPECT_GE(end, now + std::chrono::milliseconds(2900));
  EXPECT_LE(end, std::chrono::steady_clock::now() + std::chrono::milliseconds(3000));
}

TEST(ParseDeviceTest, RefusesWhatItDoesNotKnow) {
  for (const char* spec : {"memory",
                           "memory=",
                           "memory=0",
                           "memory=1TiB",
                           "memory=99999GiB",
                           "memory=-1",
                           "memory=1 GiB",
                           "chip=",
                           "uuid=GPU-1",
                           "uuid=00112233-4455-6677-8899-aabbccddeeff",
                           "uuid=GPU-00112233-4455-6677-8899-aabbccddeefg",
                           "pci=zz",
                           "colour=red",
                           "mig=0",
                           "mig=8",
                           "mig=x",
                           "memory=4MiB,mig=3",
                           "numa=-1",
                           "numa=256",
                           "copy=0",
                           "copy=fast",
                           "chip=0123456789012345678901234567890123456789012345678901234567890123"}) {
    EXPECT_TRUE(std::holds_alternative<std::string>(ParseDevice(spec, 0))) << spec;
  }
}

SessionState SampleState() {
  SessionState state;
  state.next_id = 100;
  state.now_ns = 5;
  state.contexts = {{1, 2, 3, 1, 4, 5}};
  state.streams = {{6, 1, 1, -3}, {7, 1, 0, 0}};
  state.events = {{8, 1, 2, 1, -9}};
  state.modules = {{10, 1, 4096, "text"}};
  state.functions = {{11, 10, 12, "name"}};
  state.allocations = {{4096, 13, 1, true, false, false}, {8192, 1, 1, false, false, false}};
  state.reservations = {{1 << 21, 1 << 22}};
  state.physicals = {{12, 8192, 1, 1, 0, 1, 0, 0, 0}};
  state.mappings = {{1 << 21, 1, 12, 0, 3}};
  return state;
}

TEST(SessionStateTest, LoadsWhatItSaved) {
  const auto loaded = LoadState(SaveState(SampleState()));
  ASSERT_TRUE(loaded.has_value());
  EXPECT_EQ(SaveState(*loaded), SaveState(SampleState()));
  EXPECT_EQ(loaded->streams[0].priority, -3);
  EXPECT_EQ(loaded->modules[0].text, "text");
  EXPECT_TRUE(loaded->allocations[0].is_module);
}

TEST(SessionStateTest, RefusesEveryCutAndEveryTail) {
  std::vector<std::byte> bytes = SaveState(SampleState());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(LoadState(std::span(bytes).first(size)).has_value()) << size;
  }
  bytes.push_back(std::byte{0});
  EXPECT_FALSE(LoadState(bytes).has_value());
}

TEST(SessionStateTest, DamagedBytesAreRefusedOrHarmless) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 20000; ++i) {
    std::vector<std::byte> bytes = SaveState(SampleState());
    for (int j = 0; j < 3; ++j) bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    const auto state = LoadState(bytes);
    EXPECT_TRUE(!state || SaveState(*state).size() <= bytes.size());
  }
}

std::vector<std::size_t> Visible(const char* value) {
  std::vector<DeviceDescription> devices(3);
  devices[0].uuid[0] = 0x1a;
  devices[1].uuid[0] = 0x1b;
  devices[2].uuid[0] = 0x2c;
  return VisibleDevices(value, devices);
}

TEST(VisibleDevicesTest, MigNamesPartitionsAlone) {
  std::vector<DeviceDescription> devices(2);
  devices[0].uuid[0] = 0x1a;
  devices[1].uuid[0] = 0x1b;
  devices[1].is_partition = 1;
  EXPECT_EQ(VisibleDevices("MIG-1b", devices), std::vector<std::size_t>{1});
  EXPECT_EQ(VisibleDevices("GPU-1b", devices), std::vector<std::size_t>{1});
  EXPECT_TRUE(VisibleDevices("MIG-1a", devices).empty());
  EXPECT_TRUE(VisibleDevices("MIG-", devices).empty());
}

TEST(VisibleDevicesTest, FollowsTheList) {
  using Indices = std::vector<std::size_t>;
  EXPECT_EQ(Visible(nullptr), (Indices{0, 1, 2}));
  EXPECT_EQ(Visible(""), Indices{});
  EXPECT_EQ(Visible("2,0"), (Indices{2, 0}));
  EXPECT_EQ(Visible(" 1 , 2"), (Indices{1, 2}));
  EXPECT_EQ(Visible("0,3,1"), Indices{0});
  EXPECT_EQ(Visible("1,1"), Indices{});
  EXPECT_EQ(Visible("GPU-2c"), Indices{2});
  EXPECT_EQ(Visible("GPU-1"), Indices{});  // Two begin like this.
  EXPECT_EQ(Visible("GPU-1b000000-0000-0000-0000-000000000000,0"), (Indices{1, 0}));
  EXPECT_EQ(Visible("99999999999999999999999"), Indices{});
}

class ArenaTest : public testing::Test {
 protected:
  static DeviceDescription Description() {
    DeviceDescription description;
    description.memory_bytes = 1 << 20;
    return description;
  }
  cuda_abi::CUresult Allocate(std::uint64_t bytes, std::uint64_t& address) {
    Allocation allocation;
    allocation.bytes = bytes;
    allocation.context = 1;
    const cuda_abi::CUresult result = arena_->Allocate(allocation);
    address = allocation.base;
    return result;
  }

  static constexpr std::uint64_t kBase = std::uint64_t{1} << 40;
  Device device_{Description()};
  std::unique_ptr<Arena> arena_ = Arena::Create(device_, kBase, 2 << 20);
};

TEST_F(ArenaTest, GivesOutWhatWasFreedAndNeverTheSameTwice) {
  std::mt19937_64 random(11);
  std::map<std::uint64_t, std::uint64_t> mine;
  for (int i = 0; i < 5000; ++i) {
    std::uint64_t address = 0;
    const std::uint64_t bytes = 1 + random() % 30000;
    if (Allocate(bytes, address) == cuda_abi::CUDA_SUCCESS) {
      const auto next = mine.lower_bound(address);
      ASSERT_TRUE(next == mine.end() || address + bytes <= next->first);
      ASSERT_TRUE(next == mine.begin() || std::prev(next)->first + std::prev(next)->second <= address);
      ASSERT_EQ(*arena_->host(address), std::byte{0});
      std::memset(arena_->host(address), 0xff, bytes);
      mine[address] = bytes;
    }
    if (random() % 2 == 0 && !mine.empty()) {
      auto victim = mine.begin();
      std::advance(victim, static_cast<long>(random() % mine.size()));
      arena_->Free(victim->first);
      mine.erase(victim);
    }
  }
  for (const auto& [address, bytes] : mine) arena_->Free(address);
  EXPECT_EQ(device_.Describe().used_bytes, 0U);
}

TEST_F(ArenaTest, CapacityIsTheDevicesNotTheRanges) {
  std::uint64_t address = 0;
  EXPECT_EQ(Allocate((1 << 20) + 1, address), cuda_abi::CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(Allocate(1 << 20, address), cuda_abi::CUDA_SUCCESS);
  EXPECT_EQ(Allocate(1, address), cuda_abi::CUDA_ERROR_OUT_OF_MEMORY);
  arena_.reset();
  EXPECT_EQ(device_.Describe().used_bytes, 0U);
  EXPECT_EQ(device_.Describe().session_count, 0U);
}

TEST_F(ArenaTest, APlaceOnceTakenIsRefused) {
  EXPECT_EQ(arena_->AllocateAt({kBase + 8192, 5000, 1, false}), cuda_abi::CUDA_SUCCESS);
  for (const std::uint64_t base : {kBase + 8192, kBase + 12288, kBase + 4096, kBase}) {
    EXPECT_EQ(arena_->AllocateAt({base, 12288, 1, false}), cuda_abi::CUDA_ERROR_INVALID_VALUE) << base - kBase;
  }
  EXPECT_EQ(arena_->AllocateAt({kBase + 4096, 4096, 1, false}), cuda_abi::CUDA_SUCCESS);
  EXPECT_EQ(arena_->AllocateAt({kBase + 1, 1, 1, false}), cuda_abi::CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(arena_->AllocateAt({kBase + (2 << 20), 1, 1, false}), cuda_abi::CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(arena_->AllocateAt({kBase - 4096, 1, 1, false}), cuda_abi::CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(arena_->AllocateAt({kBase + (1 << 20), ~std::uint64_t{0}, 1, false}), cuda_abi::CUDA_ERROR_INVALID_VALUE);
}

}  // namespace
}  // namespace softgpu
