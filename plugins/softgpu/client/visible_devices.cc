#include "plugins/softgpu/client/visible_devices.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <string>
#include <string_view>

namespace softgpu {

namespace {

std::string ToText(const Uuid& uuid) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text = "GPU-";
  for (std::size_t i = 0; i < uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += kDigits[uuid[i] >> 4];
    text += kDigits[uuid[i] & 15];
  }
  return text;
}

// devices.size(): none, or more than one.
std::size_t FindDevice(std::string_view entry, std::span<const DeviceDescription> devices) {
  std::size_t ordinal = 0;
  const auto [end, error] = std::from_chars(entry.data(), entry.data() + entry.size(), ordinal);
  if (error == std::errc{} && end == entry.data() + entry.size()) return std::min(ordinal, devices.size());
  std::size_t found = devices.size();
  const std::string_view kind = entry.substr(0, 4);
  if (entry.size() <= 4 || (kind != "GPU-" && kind != "MIG-")) return found;
  for (std::size_t i = 0; i < devices.size(); ++i) {
    if (kind == "MIG-" && devices[i].is_partition == 0) continue;
    if (ToText(devices[i].uuid).compare(4, entry.size() - 4, entry.substr(4)) != 0) continue;
    if (found != devices.size()) return devices.size();
    found = i;
  }
  return found;
}

}  // namespace

std::vector<std::size_t> VisibleDevices(const char* value, std::span<const DeviceDescription> devices) {
  std::vector<std::size_t> visible;
  if (value == nullptr) {
    for (std::size_t i = 0; i < devices.size(); ++i) visible.push_back(i);
    return visible;
  }
  std::string_view rest = value;
  while (!rest.empty()) {
    std::string_view entry = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), entry.size() + 1));
    while (!entry.empty() && entry.front() == ' ') entry.remove_prefix(1);
    while (!entry.empty() && entry.back() == ' ') entry.remove_suffix(1);
    const std::size_t found = FindDevice(entry, devices);
    if (found == devices.size()) break;
    if (std::find(visible.begin(), visible.end(), found) != visible.end()) return {};
    visible.push_back(found);
  }
  return visible;
}

}  // namespace softgpu
