#include "plugins/softgpu/daemon/fault_table.h"

#include <algorithm>
#include <charconv>
#include <optional>

namespace softgpu {

namespace {

struct Known {
  std::uint32_t number;
  const char* always;  // Not null: it cannot be switched off, for the emulation always does so.
};

constexpr std::uint32_t kDefaultInitMs = 2000;

constexpr Known kKnown[] = {
    {1, nullptr},
    {2, nullptr},
    {3, nullptr},
    {4, nullptr},
    {5, nullptr},
    {6, nullptr},
    {7, nullptr},
    {8, "a process is always found by its /proc/<pid>/fd, and a thread's id is as good as its process's"},
    {9, nullptr},
    {10, nullptr},
    {11, nullptr},
    {12, "only the restore thread is ever needed between lock and unlock"},
    {13, nullptr},
    {14, nullptr},
    {15, nullptr},
    {16, nullptr},
};

std::optional<std::uint32_t> ParseNumber(std::string_view text) {
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

bool FaultTable::Set(const FaultSetting& setting) {
  if (setting.fault == 0 || setting.fault >= kFaultSlots) return false;
  const std::lock_guard lock(mutex_);
  std::erase_if(settings_, [&](const auto& s) { return s.fault == setting.fault && s.pid == setting.pid; });
  if (setting.value == 0) return true;
  if (settings_.size() >= request::FaultControl::kMaxSettings) return false;
  settings_.push_back(setting);
  return true;
}

void FaultTable::ClearAll() {
  const std::lock_guard lock(mutex_);
  settings_.clear();
}

std::vector<FaultSetting> FaultTable::All() const {
  const std::lock_guard lock(mutex_);
  return settings_;
}

FaultValues FaultTable::For(pid_t pid) const {
  FaultValues values{};
  const std::lock_guard lock(mutex_);
  for (const FaultSetting& setting : settings_) {
    if (setting.pid == 0 && values[setting.fault] == 0) values[setting.fault] = setting.value;
    if (setting.pid != 0 && setting.pid == pid) values[setting.fault] = setting.value;
  }
  return values;
}

std::variant<FaultSetting, std::string> ParseFault(std::string_view text) {
  const std::string wrong = "a fault looks like F1, F9=500 (milliseconds) or F1@4242 (of process 4242 alone), not \"" +
                            std::string(text) + "\"";
  FaultSetting setting;
  if (const std::size_t at = text.find('@'); at != std::string_view::npos) {
    const auto pid = ParseNumber(text.substr(at + 1));
    if (!pid || *pid == 0 || *pid > 1U << 22) return wrong;
    setting.pid = static_cast<std::int32_t>(*pid);
    text = text.substr(0, at);
  }
  std::optional<std::uint32_t> value;
  if (const std::size_t equals = text.find('='); equals != std::string_view::npos) {
    value = ParseNumber(text.substr(equals + 1));
    if (!value || *value == 0) return wrong;
    text = text.substr(0, equals);
  }
  if (text.size() < 2 || text.front() != 'F') return wrong;
  const auto number = ParseNumber(text.substr(1));
  const auto* known =
      std::find_if(std::begin(kKnown), std::end(kKnown), [&](const Known& k) { return k.number == number; });
  if (!number || known == std::end(kKnown)) return "there are faults F1 to F16, but no \"" + std::string(text) + "\"";
  setting.fault = *number;
  const bool is_slow_init = setting.fault == static_cast<std::uint32_t>(Fault::kSlowInit);
  setting.value = value.value_or(is_slow_init ? kDefaultInitMs : 1);
  return setting;
}

const char* WhyAlwaysShown(const FaultSetting& setting) {
  for (const Known& known : kKnown) {
    if (known.number == setting.fault) return known.always;
  }
  return nullptr;
}

std::string ToString(const FaultSetting& setting) {
  std::string text = "F" + std::to_string(setting.fault);
  if (setting.value != 1) text += "=" + std::to_string(setting.value);
  if (setting.pid != 0) text += "@" + std::to_string(setting.pid);
  return text;
}

}  // namespace softgpu
