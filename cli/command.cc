#include "cli/command.h"

#include <unistd.h>

#include <array>
#include <cstdio>
#include <iostream>

namespace gpumig {
namespace {

std::string_view ResultName(ExitCode code) {
  switch (code) {
    case ExitCode::kDone:
      return "ok";
    case ExitCode::kUsage:
    case ExitCode::kRefused:
      return "refused";
    case ExitCode::kFailed:
    case ExitCode::kDamagedImage:
      return "failed";
    case ExitCode::kInDoubt:
      return "in_doubt";
    case ExitCode::kLost:
      return "lost";
  }
  return "failed";
}

}  // namespace

CommandOutcome Failure(Error error, Aftermath aftermath) {
  CommandOutcome outcome;
  switch (aftermath) {
    case Aftermath::kUntouched:
      return Refusal(std::move(error));
    case Aftermath::kRunsOn:
      outcome.code = ExitCode::kFailed;
      outcome.standing = "the workload runs on as before";
      break;
    case Aftermath::kRestRunsOn:
      outcome.code = ExitCode::kFailed;
      outcome.standing = "the rest of the workload runs on";
      break;
    case Aftermath::kEnded:
      outcome.code = ExitCode::kFailed;
      outcome.standing = "the workload ended by itself meanwhile";
      break;
    case Aftermath::kFrozen:
      outcome.code = ExitCode::kInDoubt;
      outcome.standing = "the workload stands frozen and whole";
      break;
    case Aftermath::kLost:
      outcome.code = ExitCode::kLost;
      outcome.standing = "the workload is lost";
      break;
  }
  outcome.error = std::move(error);
  return outcome;
}

CommandOutcome Refusal(Error error) {
  CommandOutcome outcome;
  const bool about_image = error.code() == ErrorCode::kDamaged || error.code() == ErrorCode::kUntrusted;
  outcome.code = about_image ? ExitCode::kDamagedImage : ExitCode::kRefused;
  outcome.standing = about_image ? "" : "nothing was touched";
  outcome.error = std::move(error);
  return outcome;
}

int Show(const CommandOutcome& outcome, bool as_json) {
  if (as_json) {
    Json object = Json::object();
    object["result"] = ResultName(outcome.code);
    object.update(outcome.json);
    if (outcome.error) {
      object["error"] = {{"code", ErrorCodeName(outcome.error->code())},
                         {"message", outcome.error->message()},
                         {"next_step", outcome.error->next_step()}};
    }
    std::cout << ToText(object) << "\n";
  } else {
    std::cout << outcome.text;
  }
  if (outcome.error) {
    std::cerr << "error: " << outcome.error->message() << "\n";
    const std::string& standing = outcome.standing;
    const std::string& next = outcome.error->next_step();
    if (!standing.empty() || !next.empty()) {
      std::cerr << "       " << standing << (standing.empty() || next.empty() ? "" : "; ") << next << "\n";
    }
  }
  std::cout.flush();
  return static_cast<int>(outcome.code);
}

std::string HumanBytes(std::uint64_t bytes) {
  static constexpr std::array<const char*, 5> kUnits = {"KiB", "MiB", "GiB", "TiB", "PiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes) / 1024.0;
  std::size_t unit = 0;
  while (value >= 1024.0 && unit + 1 < kUnits.size()) {
    value /= 1024.0;
    ++unit;
  }
  return fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string LiveText(const Json& live) {
  std::uint64_t bytes = 0;
  for (const Json& round : live["rounds"]) bytes += round.value("bytes", std::uint64_t{0});
  std::string text =
      fmt::format("copied while it ran: {} in {} rounds, {} were left for its standstill\n", HumanBytes(bytes),
                  live["rounds"].size(), HumanBytes(live.value("bytes_left", std::uint64_t{0})));
  if (!live.value("converged", true))
    text += "it writes to its memory faster than that can be copied: --live gains little for it\n";
  for (const Json& why : live["left_alone"])
    text += fmt::format("not copied while it ran: {}\n", why.get<std::string>());
  return text;
}

ProgressBar::ProgressBar() : shown_(isatty(STDERR_FILENO) == 1) {}

ProgressBar::~ProgressBar() {
  if (drawn_) std::fputs("\r\033[K", stderr);
}

void ProgressBar::Update(std::string_view phase, double done) {
  if (!shown_) return;
  constexpr int kWidth = 30;
  const int filled = static_cast<int>(done * kWidth);
  std::fputs(fmt::format("\r\033[K{:<20} [{}{}] {:3.0f} %", phase, std::string(static_cast<std::size_t>(filled), '#'),
                         std::string(static_cast<std::size_t>(kWidth - filled), '.'), done * 100.0)
                 .c_str(),
             stderr);
  std::fflush(stderr);
  drawn_ = true;
}

}  // namespace gpumig
