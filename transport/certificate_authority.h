// The site's certificate authority: makes it, and issues the identities by which nodes know each other.
//
// Keys are EC P-256. Who holds ca.key can be any node, so it belongs on a machine of the administrator, not on a node.
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/base/result.h"
#include "transport/identity.h"

namespace gpumig {

struct AuthorityOptions {
  std::string site_name = "gpumig site";  // shown in certificates, grants nothing; at most 48 bytes
  std::chrono::seconds validity = std::chrono::days(3650);
};

// Makes `directory` (mode 0700) with ca.crt and ca.key (0600).
// Errors: kAlreadyExists, either file is there; nothing is overwritten, and what a failed call made is removed.
Result<void> InitAuthority(const std::filesystem::path& directory, const AuthorityOptions& options = {});

struct IssueOptions {
  std::string node_name;
  // For other tools; gpumig looks at the node name only. DNS names ending in ".gpumig" are refused.
  std::vector<std::string> dns_names;
  std::vector<std::string> addresses;
  std::chrono::seconds validity = std::chrono::days(90);  // from now, cut to that of the authority
  std::optional<CertificateTime> not_before;              // default: five minutes ago, for clocks that differ
  bool may_serve = true;  // a node needs both; a certificate without one is good for one end of a connection only
  bool may_call = true;
};

// Makes `out_directory` (mode 0700) with node.crt, node.key (0600) and ca.crt, for LoadNodeIdentity().
// Errors: kAlreadyExists, one of the files is there, nothing was changed; kInvalidArgument, a name or address;
//     kUntrusted, the authority expired or its key is another's.
Result<void> IssueIdentity(const std::filesystem::path& authority_directory, const std::filesystem::path& out_directory,
                           const IssueOptions& options);

}  // namespace gpumig
