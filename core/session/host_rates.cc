#include "core/session/host_rates.h"

#include <utility>

#include "core/base/file.h"

namespace gpumig {
namespace {

constexpr std::size_t kMostFileBytes = 1 << 20;
constexpr const char* kFileName = "rates.json";

// Name in the file, and where it is.
constexpr std::pair<const char*, std::uint64_t HostRates::*> kRates[] = {{"copy", &HostRates::copy},
                                                                         {"read", &HostRates::read},
                                                                         {"digest", &HostRates::digest},
                                                                         {"encode", &HostRates::encode},
                                                                         {"state_disk", &HostRates::state_disk},
                                                                         {"staging", &HostRates::staging},
                                                                         {"gpu_capture", &HostRates::gpu_capture},
                                                                         {"gpu_restore", &HostRates::gpu_restore}};

// 0 of a file stands for "not measured", as null.
Json RateToJson(std::uint64_t rate) { return rate == 0 ? Json(nullptr) : Json(rate); }

Result<std::uint64_t> RateFromJson(const Json& rates, const char* key) {
  if (!rates.contains(key) || rates[key].is_null()) return std::uint64_t{0};
  return UnsignedMember(rates, key);
}

Result<std::uint32_t> SmallMember(const Json& json, const char* key) {
  const std::uint64_t value = GPUMIG_TRY(UnsignedMember(json, key));
  if (value > UINT32_MAX) return MakeError(ErrorCode::kDamaged, "member '{}' is {}", key, value);
  return static_cast<std::uint32_t>(value);
}

}  // namespace

Json ToJson(const HostRates& rates) {
  Json bytes = Json::object();
  for (const auto& [name, member] : kRates) bytes[name] = RateToJson(rates.*member);
  Json links = Json::object();
  for (const auto& [node, link] : rates.links) {
    links[node] = {{"bytes_per_second", link.bytes_per_second},
                   {"connections", link.connection_count},
                   {"measured_at", link.measured_at}};
  }
  return {{"measured_at", rates.measured_at},
          {"threads", rates.thread_count},
          {"bytes_per_second", bytes},
          {"fixed_us", rates.fixed ? Json(static_cast<std::uint64_t>(rates.fixed->count())) : Json(nullptr)},
          {"links", links}};
}

Result<HostRates> HostRatesFromJson(const Json& json) {
  HostRates rates;
  rates.measured_at = GPUMIG_TRY(StringMember(json, "measured_at"));
  rates.thread_count = GPUMIG_TRY(SmallMember(json, "threads"));
  const Json bytes = GPUMIG_TRY(ObjectMember(json, "bytes_per_second"));
  for (const auto& [name, member] : kRates) rates.*member = GPUMIG_TRY(RateFromJson(bytes, name));
  if (json.contains("fixed_us") && !json["fixed_us"].is_null()) {
    rates.fixed = std::chrono::microseconds(GPUMIG_TRY(SmallMember(json, "fixed_us")));
  }
  const Json links = GPUMIG_TRY(ObjectMember(json, "links"));
  for (const auto& [node, link] : links.items()) {
    LinkRate rate;
    rate.bytes_per_second = GPUMIG_TRY(UnsignedMember(link, "bytes_per_second"));
    rate.connection_count = GPUMIG_TRY(SmallMember(link, "connections"));
    rate.measured_at = GPUMIG_TRY(StringMember(link, "measured_at"));
    if (rate.bytes_per_second == 0 || rate.connection_count == 0) {
      return MakeError(ErrorCode::kDamaged, "the link to {} has a rate or a connection count of 0", node);
    }
    rates.links[node] = std::move(rate);
  }
  return rates;
}

Result<HostRates> LoadHostRates(const std::filesystem::path& state_directory) {
  const std::filesystem::path file = state_directory / kFileName;
  const std::string text = GPUMIG_TRY(ReadTextFile(file, kMostFileBytes));
  const Json json = GPUMIG_TRY(ParseJson(text), "{}", file.string());
  return GPUMIG_TRY(HostRatesFromJson(json), "{}", file.string());
}

Result<void> SaveHostRates(const std::filesystem::path& state_directory, const HostRates& rates) {
  GPUMIG_TRY(MakeDirectories(state_directory));
  return WriteFileDurably(state_directory / kFileName, ToText(ToJson(rates)) + "\n");
}

}  // namespace gpumig
