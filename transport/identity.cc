#include "transport/identity.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <optional>

#include "core/base/bytes.h"
#include "core/base/file.h"
#include "transport/certificates.h"

namespace gpumig {
namespace {

constexpr std::size_t kMaxPemBytes = 64 << 10;

bool IsNodeNameCharacter(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; }

Result<void> CheckOnlyOwnerReads(const std::filesystem::path& path) {
  struct stat status{};
  if (stat(path.c_str(), &status) != 0) return Error::FromErrno(errno, fmt::format("open {}", path.string()));
  if ((status.st_mode & 077u) == 0) return Ok();
  return MakeError(ErrorCode::kPermissionDenied, "key file {} is open to others than its owner (mode {:04o})",
                   path.string(), status.st_mode & 07777u)
      .WithNextStep(fmt::format("chmod 600 {}, and issue a new identity if others may have read it", path.string()));
}

Result<void> CheckChain(X509* certificate, X509* authority, int purpose, std::string_view role) {
  const CertificateStoreHandle store = GPUMIG_TRY(TrustOnly(authority));
  const std::unique_ptr<X509_STORE_CTX, OpensslDeleter<&X509_STORE_CTX_free>> context(X509_STORE_CTX_new());
  if (!context || X509_STORE_CTX_init(context.get(), store.get(), certificate, nullptr) != 1) {
    return MakeError(ErrorCode::kInternal, "set up verification: {}", TakeOpensslError());
  }
  X509_VERIFY_PARAM* parameters = X509_STORE_CTX_get0_param(context.get());
  X509_VERIFY_PARAM_set_flags(parameters, X509_V_FLAG_NO_CHECK_TIME);
  X509_VERIFY_PARAM_set_purpose(parameters, purpose);
  if (X509_verify_cert(context.get()) == 1) return Ok();
  ERR_clear_error();
  return MakeError(ErrorCode::kUntrusted, "the certificate does not hold as {}: {}", role,
                   X509_verify_cert_error_string(X509_STORE_CTX_get_error(context.get())));
}

}  // namespace

Result<void> CheckNodeName(std::string_view name) {
  const bool good = !name.empty() && name.size() <= 63 && std::ranges::all_of(name, IsNodeNameCharacter) &&
                    name.front() != '-' && name.back() != '-';
  if (good) return Ok();
  return MakeError(ErrorCode::kInvalidArgument, "'{}' is not a node name: 1 to 63 of a-z, 0-9 and '-' inside",
                   name.substr(0, 80));
}

std::string TlsNameOf(std::string_view node_name) { return std::string(node_name).append(kNodeNameSuffix); }

Result<std::string> NodeNameOf(const X509* certificate) {
  const std::unique_ptr<GENERAL_NAMES, OpensslDeleter<&GENERAL_NAMES_free>> names(
      static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  std::optional<std::string> found;
  for (int i = 0; names && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* entry = sk_GENERAL_NAME_value(names.get(), i);
    if (entry->type != GEN_DNS) continue;
    const std::string_view text(reinterpret_cast<const char*>(ASN1_STRING_get0_data(entry->d.dNSName)),
                                static_cast<std::size_t>(ASN1_STRING_length(entry->d.dNSName)));
    if (!text.ends_with(kNodeNameSuffix)) continue;
    if (found) return MakeError(ErrorCode::kUntrusted, "the certificate names more than one node");
    found = text.substr(0, text.size() - kNodeNameSuffix.size());
  }
  if (!found) return MakeError(ErrorCode::kUntrusted, "the certificate names no node (no DNS name NAME.gpumig)");
  if (!CheckNodeName(*found)) return MakeError(ErrorCode::kUntrusted, "the certificate's node name is not a node name");
  return *found;
}

std::string SerialNumberOf(const X509* certificate) {
  const ASN1_INTEGER* serial = X509_get0_serialNumber(certificate);
  const auto* data = reinterpret_cast<const std::byte*>(ASN1_STRING_get0_data(serial));
  return ToHex(std::span(data, static_cast<std::size_t>(ASN1_STRING_length(serial))));
}

std::string ToText(CertificateTime time) {
  const std::time_t seconds = time.time_since_epoch().count();
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  return fmt::format("{:04}-{:02}-{:02} {:02}:{:02}:{:02} UTC", parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday,
                     parts.tm_hour, parts.tm_min, parts.tm_sec);
}

Result<NodeIdentity> LoadNodeIdentity(const std::filesystem::path& directory) {
  NodeIdentity identity;
  identity.certificate_path = directory / kNodeCertificateFile;
  identity.key_path = directory / kNodeKeyFile;
  identity.authority_path = directory / kAuthorityCertificateFile;
  const std::string context = fmt::format("load identity {}", directory.string());
  identity.certificate_pem = GPUMIG_TRY(ReadTextFile(identity.certificate_path, kMaxPemBytes), "{}", context);
  identity.key_pem = GPUMIG_TRY(ReadTextFile(identity.key_path, kMaxPemBytes), "{}", context);
  identity.authority_pem = GPUMIG_TRY(ReadTextFile(identity.authority_path, kMaxPemBytes), "{}", context);
  GPUMIG_TRY(CheckOnlyOwnerReads(identity.key_path), "{}", context);

  const CertificateHandle certificate =
      GPUMIG_TRY(ParseCertificate(identity.certificate_pem), "{}: {}", context, kNodeCertificateFile);
  const KeyHandle key = GPUMIG_TRY(ParseKey(identity.key_pem), "{}: {}", context, kNodeKeyFile);
  const CertificateHandle authority =
      GPUMIG_TRY(ParseCertificate(identity.authority_pem), "{}: {}", context, kAuthorityCertificateFile);
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    ERR_clear_error();
    return MakeError(ErrorCode::kUntrusted, "{}: the key does not belong to the certificate", context)
        .WithNextStep("issue the identity again with 'gpumig certs issue'");
  }
  GPUMIG_TRY(CheckChain(certificate.get(), authority.get(), X509_PURPOSE_SSL_SERVER, "a server's"), "{}", context);
  GPUMIG_TRY(CheckChain(certificate.get(), authority.get(), X509_PURPOSE_SSL_CLIENT, "a client's"), "{}", context);
  identity.name = GPUMIG_TRY(NodeNameOf(certificate.get()), "{}", context);
  identity.serial_number = SerialNumberOf(certificate.get());
  identity.not_before = NotBeforeOf(certificate.get());
  identity.not_after = std::min(NotAfterOf(certificate.get()), NotAfterOf(authority.get()));
  return identity;
}

Result<void> CheckDates(const NodeIdentity& identity, CertificateTime now) {
  if (now >= identity.not_after) {
    return MakeError(ErrorCode::kUntrusted,
                     "the certificate of this node ({}, {}) expired at {}; this host's clock says {}", identity.name,
                     identity.certificate_path.string(), ToText(identity.not_after), ToText(now))
        .WithNextStep("issue a new one with 'gpumig certs issue', or set the clock");
  }
  if (now < identity.not_before) {
    return MakeError(ErrorCode::kUntrusted,
                     "the certificate of this node ({}, {}) is not yet valid before {}; this host's clock says {}",
                     identity.name, identity.certificate_path.string(), ToText(identity.not_before), ToText(now))
        .WithNextStep("set the clock of this host, or of the one that issued the certificate");
  }
  return Ok();
}

CertificateTime CertificateTimeNow() {
  return std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());
}

}  // namespace gpumig
