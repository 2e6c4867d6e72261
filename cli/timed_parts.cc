#include "cli/timed_parts.h"

namespace gpumig {

double Milliseconds(std::chrono::microseconds duration) { return static_cast<double>(duration.count()) / 1000.0; }

Json PartsToJson(const std::vector<TimedPart>& parts) {
  Json json = Json::object();
  for (const TimedPart& part : parts) json[part.name] = Milliseconds(part.duration);
  return json;
}

}  // namespace gpumig
