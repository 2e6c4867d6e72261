#include "cli/live_report.h"

#include "cli/timed_parts.h"

namespace gpumig {

Json LiveToJson(const LiveReport& live) {
  Json rounds = Json::array();
  for (const LiveRound& round : live.rounds)
    rounds.push_back({{"bytes", round.bytes}, {"ms", Milliseconds(round.duration)}});
  return {{"rounds", rounds},
          {"converged", live.converged},
          {"bytes_left", live.bytes_left},
          {"left_alone", live.left_alone}};
}

}  // namespace gpumig
