// gpumig certs init and issue.
#include "cli/local_commands.h"
#include "transport/certificate_authority.h"

namespace gpumig {

CommandOutcome InitCertificates(const std::filesystem::path& directory) {
  if (Result<void> made = InitAuthority(directory); !made) return Refusal(made.error());
  CommandOutcome outcome;
  outcome.json = {{"directory", directory.string()}};
  outcome.text =
      fmt::format("made a certificate authority in {}; keep ca.key away from the nodes\n", directory.string());
  return outcome;
}

CommandOutcome IssueCertificate(const IssueArguments& arguments) {
  IssueOptions options;
  options.node_name = arguments.node;
  options.validity =
      arguments.seconds > 0 ? std::chrono::seconds(arguments.seconds) : std::chrono::days(arguments.days);
  if (Result<void> issued = IssueIdentity(arguments.authority, arguments.out, options); !issued)
    return Refusal(issued.error());
  CommandOutcome outcome;
  outcome.json = {{"node", arguments.node}, {"directory", arguments.out.string()}};
  outcome.text = fmt::format(
      "made the identity of {} in {}, valid for {}; copy that directory to the node\n", arguments.node,
      arguments.out.string(),
      arguments.seconds > 0 ? fmt::format("{} seconds", arguments.seconds) : fmt::format("{} days", arguments.days));
  return outcome;
}

}  // namespace gpumig
