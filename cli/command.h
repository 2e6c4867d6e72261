// What every command of gpumig gives back, and how it is shown: text or one JSON object on stdout, errors on stderr.
#pragma once

#include <string>

#include "core/base/json.h"
#include "core/base/result.h"
#include "core/session/checkpoint.h"

namespace gpumig {

// The exit codes of the command line contract (docs/cli.md).
enum class ExitCode : int {
  kDone = 0,
  kUsage = 2,
  kRefused = 3,      // nothing was touched
  kFailed = 4,       // the job runs on as before
  kInDoubt = 5,      // the job is frozen whole, and a command settles it
  kLost = 6,         // the job is lost
  kDamagedImage = 7  // an image is damaged or not trusted
};

struct CommandOutcome {
  ExitCode code = ExitCode::kDone;
  Json json = Json::object();  // without `result` and `error`, which are added
  std::string text;            // for people; ends with a newline, or is empty
  std::optional<Error> error;
  std::string standing;  // with an error: how the job stands now, for people
};

// Of an error, by how the job stands after it.
CommandOutcome Failure(Error error, Aftermath aftermath);
// Of an error of a command that touches no job.
CommandOutcome Refusal(Error error);

// Prints, and gives the process's exit code.
int Show(const CommandOutcome& outcome, bool as_json);

// "1.5 GiB", "312 B"
std::string HumanBytes(std::uint64_t bytes);

// What copying while a workload ran was good for, as LiveToJson() gives it.
std::string LiveText(const Json& live);

// A bar on stderr where that is a terminal; nothing elsewhere.
class ProgressBar {
 public:
  ProgressBar();
  ~ProgressBar();
  void Update(std::string_view phase, double done);

 private:
  bool shown_;
  bool drawn_ = false;
};

}  // namespace gpumig
