// NodeIdentity: who this node is to its peers, and how a certificate says which node it speaks for.
//
// Format: a certificate names its node by exactly one DNS subject alternative name "NAME.gpumig". Nothing else in it
// (subject, addresses, other DNS names) counts. An identity directory holds node.crt, node.key (mode 0600) and ca.crt,
// all PEM.
#pragma once

#include <openssl/types.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <string_view>

#include "core/base/result.h"

namespace gpumig {

inline constexpr std::string_view kNodeNameSuffix = ".gpumig";
inline constexpr const char* kNodeCertificateFile = "node.crt";
inline constexpr const char* kNodeKeyFile = "node.key";
inline constexpr const char* kAuthorityCertificateFile = "ca.crt";
inline constexpr const char* kAuthorityKeyFile = "ca.key";

using CertificateTime = std::chrono::sys_seconds;

// One DNS label: 1 to 63 of a-z, 0-9 and '-', no '-' first or last. Errors: kInvalidArgument.
Result<void> CheckNodeName(std::string_view name);

// "node-b" -> "node-b.gpumig", the name that TLS verifies.
std::string TlsNameOf(std::string_view node_name);

// Errors: kUntrusted, the certificate names no node, several, or one whose name is not a node name.
Result<std::string> NodeNameOf(const X509* certificate);

// Lower-case hexadecimal.
std::string SerialNumberOf(const X509* certificate);

// "2026-11-20 09:30:00 UTC".
std::string ToText(CertificateTime time);

// Ownership: a value; the PEM texts are those that were checked, so a file replaced later changes nothing.
struct NodeIdentity {
  std::string name;
  std::string serial_number;
  CertificateTime not_before;
  CertificateTime not_after;
  std::filesystem::path certificate_path;
  std::filesystem::path key_path;
  std::filesystem::path authority_path;
  std::string certificate_pem;
  std::string key_pem;
  std::string authority_pem;
};

// From an identity directory. All is checked but the dates, for which see CheckDates().
// Errors: kNotFound, a file is missing; kPermissionDenied, others than its owner may read the key; kDamaged, not PEM of
//     the right kind; kUntrusted, the key does not belong to the certificate, the certificate is not of that authority,
//     may not serve and call, or names no node.
Result<NodeIdentity> LoadNodeIdentity(const std::filesystem::path& directory);

// Errors: kUntrusted, "expired" or "not yet valid", with the date and what to do.
Result<void> CheckDates(const NodeIdentity& identity, CertificateTime now);
CertificateTime CertificateTimeNow();

}  // namespace gpumig
