#include "core/session/pause_forecast.h"

#include <algorithm>
#include <array>

#include "core/base/check.h"

namespace gpumig {
namespace {

struct Rate {
  const char* name;
  double bytes_per_second;
};

std::chrono::microseconds TimeOf(double bytes, double bytes_per_second) {
  return std::chrono::microseconds(static_cast<std::int64_t>(bytes / bytes_per_second * 1e6));
}

// Of two that take turns on the same cores.
double InTurn(double a, double b) { return 1 / (1 / a + 1 / b); }

double LinkRateFor(const LinkRate& link, std::uint32_t connection_count) {
  const double share =
      std::min(1.0, static_cast<double>(connection_count) / static_cast<double>(link.connection_count));
  return static_cast<double>(link.bytes_per_second) * share;
}

Error Missing(const std::string& what, const std::string& node) {
  return MakeError(ErrorCode::kFailedPrecondition, "{} was never measured, so that no pause can be forecast", what)
      .WithNextStep(fmt::format("measure with: gpumig bench --to {}", node.empty() ? "NODE" : node));
}

// A part of the pause, and what bounds it.
struct BoundPart {
  TimedPart part;
  std::string bound_by;
};

}  // namespace

Result<PauseForecast> PredictPause(const HostRates& rates, const PauseQuestion& question) {
  GPUMIG_CHECK(question.connection_count > 0);
  const auto link = rates.links.find(question.node);
  if (link == rates.links.end()) return Missing(fmt::format("the link to node {}", question.node), question.node);
  for (const Rate& rate :
       {Rate{"reading memory", static_cast<double>(rates.read)}, Rate{"the digest", static_cast<double>(rates.digest)},
        Rate{"the codec", static_cast<double>(rates.encode)}}) {
    if (rate.bytes_per_second == 0) return Missing(rate.name, question.node);
  }
  const auto read = static_cast<double>(rates.read);
  const auto digest = static_cast<double>(rates.digest);
  const double bytes = static_cast<double>(question.host_bytes) + static_cast<double>(question.device_bytes);

  PauseForecast forecast;
  std::vector<BoundPart> parts;
  if (rates.fixed) {
    parts.push_back({{"fixed", *rates.fixed}, "fixed"});
  } else {
    forecast.left_out.emplace_back("fixed");
  }
  const auto add_gpu = [&](const char* name, std::uint64_t bytes_per_second) {
    if (question.device_bytes == 0) return;
    if (bytes_per_second == 0) {
      forecast.left_out.emplace_back(name);
    } else {
      parts.push_back(
          {{name, TimeOf(static_cast<double>(question.device_bytes), static_cast<double>(bytes_per_second))}, "gpu"});
    }
  };
  add_gpu("device_capture", rates.gpu_capture);
  parts.push_back({{"hash", TimeOf(bytes, InTurn(read, digest))}, digest < read ? "digest" : "read"});
  const std::array<Rate, 3> stages = {Rate{"link", LinkRateFor(link->second, question.connection_count)},
                                      Rate{"encode", InTurn(read, static_cast<double>(rates.encode))},
                                      Rate{"digest", digest}};  // which the target checks while it takes them
  const Rate slowest = *std::ranges::min_element(
      stages, [](const Rate& a, const Rate& b) { return a.bytes_per_second < b.bytes_per_second; });
  parts.push_back({{"send", TimeOf(bytes, slowest.bytes_per_second)}, slowest.name});
  add_gpu("device_restore", rates.gpu_restore);

  const BoundPart& longest = *std::ranges::max_element(
      parts, [](const BoundPart& a, const BoundPart& b) { return a.part.duration < b.part.duration; });
  forecast.bound_by = longest.bound_by;
  for (const BoundPart& part : parts) {
    forecast.total += part.part.duration;
    forecast.parts.push_back(part.part);
  }
  return forecast;
}

}  // namespace gpumig
