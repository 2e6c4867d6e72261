// Which behaviours of real drivers the daemon shows, and to whom. Changed while programs run (softgpud ctl).
//
// Thread safety: any number of threads at once.
#pragma once

#include <sys/types.h>

#include <mutex>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "plugins/softgpu/wire/protocol.h"

namespace softgpu {

using FaultSetting = request::FaultControl::Setting;

class FaultTable {
 public:
  // value 0: clears. False: no such fault, or FaultControl::kMaxSettings are set.
  bool Set(const FaultSetting& setting);
  void ClearAll();
  std::vector<FaultSetting> All() const;
  // What `pid` is to see: its own settings before those for all.
  FaultValues For(pid_t pid) const;

 private:
  mutable std::mutex mutex_;
  std::vector<FaultSetting> settings_;  // Guarded by mutex_.
};

// "F9", "F9=500", "F1@4242": of process 4242 alone. The string is what is wrong.
std::variant<FaultSetting, std::string> ParseFault(std::string_view text);
// In what way the emulation shows this fault whether it is set or not; null: it shows it while it is set.
const char* WhyAlwaysShown(const FaultSetting& setting);
std::string ToString(const FaultSetting& setting);

}  // namespace softgpu
