#include "plugins/softgpu/daemon/device.h"

#include <sys/random.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>

namespace softgpu {

namespace {

constexpr std::uint64_t kDefaultMemoryBytes = std::uint64_t{1} << 30;
constexpr std::uint64_t kPartitionGranule = std::uint64_t{2} << 20;
constexpr std::string_view kDefaultChip = "SoftGPU A";

std::optional<std::uint64_t> ParseBytes(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{}) return std::nullopt;
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  int shift = 0;
  if (unit == "KiB") shift = 10;
  if (unit == "MiB") shift = 20;
  if (unit == "GiB") shift = 30;
  if (shift == 0 && !unit.empty()) return std::nullopt;
  if (value == 0 || value > (kMaxSpanBytes >> shift)) return std::nullopt;
  return value << shift;
}

std::optional<unsigned> ParseSmall(std::string_view text) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value > 255) return std::nullopt;
  return value;
}

bool ParsePci(std::string_view text, DeviceDescription& device) {
  unsigned domain = 0;
  unsigned bus = 0;
  unsigned slot = 0;
  const std::string copy(text);
  if (std::sscanf(copy.c_str(), "%x:%x:%x", &domain, &bus, &slot) != 3) return false;
  if (domain > 0xffff || bus > 0xff || slot > 0x1f) return false;
  device.pci_domain = domain;
  device.pci_bus = bus;
  device.pci_device = slot;
  return true;
}

Uuid RandomUuid() {
  Uuid uuid{};
  if (getrandom(uuid.data(), uuid.size(), 0) != static_cast<ssize_t>(uuid.size())) uuid = {};
  uuid[6] = static_cast<std::uint8_t>((uuid[6] & 0x0f) | 0x40);
  uuid[8] = static_cast<std::uint8_t>((uuid[8] & 0x3f) | 0x80);
  return uuid;
}

constexpr unsigned kMostPartitions = 7;  // As NVIDIA's.

// Instances of one size, named as theirs are: "NAME MIG 2g.40gb".
std::vector<DeviceDescription> Partition(const DeviceDescription& parent, unsigned count) {
  std::vector<DeviceDescription> partitions;
  for (unsigned i = 0; i < count; ++i) {
    DeviceDescription partition = parent;
    partition.is_partition = 1;
    partition.parent = parent.uuid;
    partition.memory_bytes = parent.memory_bytes / count / kPartitionGranule * kPartitionGranule;
    partition.uuid[0] = static_cast<std::uint8_t>(parent.uuid[0] ^ (0x80 | i));
    const std::string size = partition.memory_bytes >> 30 != 0 ? std::to_string(partition.memory_bytes >> 30) + "gb"
                                                               : std::to_string(partition.memory_bytes >> 20) + "mb";
    const std::string suffix = " MIG " + std::to_string(kMostPartitions / count) + "g." + size;
    const std::size_t room = sizeof(partition.chip) - 1 - suffix.size();
    const std::string name = std::string(parent.chip).substr(0, room) + suffix;
    std::memset(partition.chip, 0, sizeof(partition.chip));
    std::memcpy(partition.chip, name.data(), name.size());
    partitions.push_back(partition);
  }
  return partitions;
}

// Empty, or what is wrong.
std::string SetPart(std::string_view key, std::string_view value, DeviceDescription& device, unsigned& partitions) {
  if (key == "memory") {
    const auto bytes = ParseBytes(value);
    if (!bytes) return "memory must be 1 byte to 1024GiB, as 512MiB or 2GiB, not \"" + std::string(value) + "\"";
    device.memory_bytes = *bytes;
  } else if (key == "chip") {
    if (value.empty() || value.size() >= sizeof(device.chip)) return "chip must have 1 to 63 characters";
    std::memset(device.chip, 0, sizeof(device.chip));
    std::memcpy(device.chip, value.data(), value.size());
  } else if (key == "uuid") {
    const auto uuid = ParseUuid(value);
    if (!uuid)
      return "uuid must look like GPU-01234567-89ab-cdef-0123-456789abcdef, not \"" + std::string(value) + "\"";
    device.uuid = *uuid;
  } else if (key == "pci") {
    if (!ParsePci(value, device)) return "pci must look like 0000:0a:00, not \"" + std::string(value) + "\"";
  } else if (key == "copy") {
    const auto bytes = ParseBytes(value);
    if (!bytes) return "copy must be bytes per second, as 512MiB or 4GiB, not \"" + std::string(value) + "\"";
    device.copy_bytes_per_second = *bytes;
  } else if (key == "numa") {
    const auto node = ParseSmall(value);
    if (!node) return "numa must be 0 to 255, not \"" + std::string(value) + "\"";
    device.numa_node = static_cast<std::int32_t>(*node);
  } else if (key == "mig") {
    const auto count = ParseSmall(value);
    if (!count || *count < 1 || *count > kMostPartitions)
      return "mig must be 1 to 7, not \"" + std::string(value) + "\"";
    partitions = *count;
  } else {
    return "a device has memory, chip, uuid, pci, numa, copy and mig, but no \"" + std::string(key) + "\"";
  }
  return {};
}

}  // namespace

DeviceDescription Device::Describe() const {
  const std::lock_guard lock(mutex_);
  return description_;
}

bool Device::Take(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes > description_.memory_bytes - description_.used_bytes) return false;
  description_.used_bytes += bytes;
  return true;
}

void Device::GiveBack(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  description_.used_bytes -= bytes;
}

void Device::AddSession(int count) {
  const std::lock_guard lock(mutex_);
  description_.session_count += static_cast<std::uint32_t>(count);
}

std::chrono::steady_clock::time_point Device::WhenMoved(std::uint64_t bytes) {
  const auto now = std::chrono::steady_clock::now();
  const std::lock_guard lock(mutex_);
  if (description_.copy_bytes_per_second == 0) return now;
  // A token bucket that holds kBurst of unused time: short copies go at full speed.
  constexpr std::chrono::milliseconds kBurst{10};
  busy_until_ = std::max(busy_until_, now - kBurst);
  const double seconds = static_cast<double>(bytes) / static_cast<double>(description_.copy_bytes_per_second);
  busy_until_ += std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::duration<double>(seconds));
  return busy_until_;
}

std::variant<std::vector<DeviceDescription>, std::string> ParseDevice(std::string_view spec, std::size_t index) {
  unsigned partitions = 0;
  DeviceDescription device;
  device.uuid = RandomUuid();
  device.memory_bytes = kDefaultMemoryBytes;
  std::memcpy(device.chip, kDefaultChip.data(), kDefaultChip.size());
  device.pci_bus = static_cast<std::uint32_t>(index) + 1;
  while (!spec.empty()) {
    const std::string_view part = spec.substr(0, spec.find(','));
    spec.remove_prefix(std::min(spec.size(), part.size() + 1));
    const std::size_t equals = part.find('=');
    if (equals == std::string_view::npos) return "expected name=value, not \"" + std::string(part) + "\"";
    std::string wrong = SetPart(part.substr(0, equals), part.substr(equals + 1), device, partitions);
    if (!wrong.empty()) return wrong;
  }
  if (partitions == 0) return std::vector{device};
  if (device.memory_bytes / partitions < kPartitionGranule) return "mig: too little memory for so many partitions";
  return Partition(device, partitions);
}

std::string ToString(const Uuid& uuid) {
  std::string text = "GPU-";
  for (std::size_t i = 0; i < uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    char digits[3];
    std::snprintf(digits, sizeof(digits), "%02x", uuid[i]);
    text += digits;
  }
  return text;
}

std::optional<Uuid> ParseUuid(std::string_view text) {
  if (text.size() != 40 || text.substr(0, 4) != "GPU-") return std::nullopt;
  text.remove_prefix(4);
  Uuid uuid{};
  for (std::size_t i = 0; i < uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) {
      if (text.front() != '-') return std::nullopt;
      text.remove_prefix(1);
    }
    unsigned value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + 2, value, 16);
    if (error != std::errc{} || end != text.data() + 2) return std::nullopt;
    uuid[i] = static_cast<std::uint8_t>(value);
    text.remove_prefix(2);
  }
  return uuid;
}

}  // namespace softgpu
