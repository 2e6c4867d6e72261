#include "transport/certificate_authority.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/bn.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "core/base/file.h"
#include "transport/certificates.h"

namespace gpumig {
namespace {

constexpr std::size_t kMaxPemBytes = 64 << 10;
constexpr std::chrono::minutes kClockSkew{5};

Error OpensslFailure(std::string_view what) {
  return MakeError(ErrorCode::kInternal, "{}: {}", what, TakeOpensslError());
}

// Files that go away again unless Keep() is called: a half-made identity helps nobody.
class NewFiles {
 public:
  NewFiles() = default;
  NewFiles(const NewFiles&) = delete;
  NewFiles& operator=(const NewFiles&) = delete;
  ~NewFiles() {
    for (const std::filesystem::path& path : paths_) unlink(path.c_str());
  }

  Result<void> Write(const std::filesystem::path& path, std::string_view text, unsigned mode) {
    UniqueFd fd = GPUMIG_TRY(OpenFile(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode));
    paths_.push_back(path);
    GPUMIG_TRY(WriteAll(fd.get(), text), "write {}", path.string());
    if (fsync(fd.get()) != 0) return Error::FromErrno(errno, fmt::format("fsync {}", path.string()));
    return fd.Close();
  }
  void Keep() { paths_.clear(); }

 private:
  std::vector<std::filesystem::path> paths_;
};

Result<void> PrepareDirectory(const std::filesystem::path& directory, std::initializer_list<const char*> names) {
  GPUMIG_TRY(MakeDirectories(directory));
  if (chmod(directory.c_str(), 0700) != 0) return Error::FromErrno(errno, fmt::format("chmod {}", directory.string()));
  for (const char* name : names) {
    struct stat status{};
    if (lstat((directory / name).c_str(), &status) != 0) continue;
    return MakeError(ErrorCode::kAlreadyExists, "{} is there already; nothing was changed", (directory / name).string())
        .WithNextStep("name another directory, or move the old files away");
  }
  return Ok();
}

Result<void> AddExtension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const std::unique_ptr<X509_EXTENSION, OpensslDeleter<&X509_EXTENSION_free>> extension(
      X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  if (!extension || X509_add_ext(certificate, extension.get(), -1) != 1) {
    return OpensslFailure(fmt::format("add '{}' to the certificate", value));
  }
  return Ok();
}

// Version 3, a random serial number, subject and dates; no extensions yet, not signed.
Result<CertificateHandle> NewCertificate(EVP_PKEY* key, const std::string& common_name, CertificateTime not_before,
                                         CertificateTime not_after) {
  CertificateHandle certificate(X509_new());
  const std::unique_ptr<BIGNUM, OpensslDeleter<&BN_free>> serial(BN_new());
  // 126 random bits and the top one: positive, never short, and no two alike.
  if (!certificate || !serial || BN_rand(serial.get(), 127, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) != 1 ||
      BN_to_ASN1_INTEGER(serial.get(), X509_get_serialNumber(certificate.get())) == nullptr ||
      X509_set_version(certificate.get(), X509_VERSION_3) != 1 || X509_set_pubkey(certificate.get(), key) != 1) {
    return OpensslFailure("make a certificate");
  }
  X509_NAME* subject = X509_get_subject_name(certificate.get());
  if (X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8,
                                 reinterpret_cast<const unsigned char*>(common_name.data()),
                                 static_cast<int>(common_name.size()), -1, 0) != 1) {
    return OpensslFailure("name the certificate");
  }
  if (ASN1_TIME_set(X509_getm_notBefore(certificate.get()), not_before.time_since_epoch().count()) == nullptr ||
      ASN1_TIME_set(X509_getm_notAfter(certificate.get()), not_after.time_since_epoch().count()) == nullptr) {
    return OpensslFailure("date the certificate");
  }
  return certificate;
}

Result<void> Sign(X509* certificate, EVP_PKEY* key) {
  if (X509_sign(certificate, key, EVP_sha256()) == 0) return OpensslFailure("sign the certificate");
  return Ok();
}

Result<KeyHandle> NewKey() {
  KeyHandle key(EVP_EC_gen("P-256"));
  if (!key) return OpensslFailure("make a key");
  return key;
}

// Values go into OpenSSL's extension syntax, where ',' and ':' mean something: nothing but plain names may pass.
Result<void> CheckDnsName(const std::string& name) {
  const bool plain =
      !name.empty() && name.size() <= 253 &&
      name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.") == std::string::npos;
  if (!plain) return MakeError(ErrorCode::kInvalidArgument, "'{}' is not a DNS name", name);
  if (name.size() >= kNodeNameSuffix.size() &&
      strcasecmp(name.c_str() + name.size() - kNodeNameSuffix.size(), kNodeNameSuffix.data()) == 0) {
    return MakeError(ErrorCode::kInvalidArgument, "'{}': names ending in .gpumig name nodes, one per identity", name);
  }
  return Ok();
}

Result<void> CheckAddress(const std::string& address) {
  std::array<unsigned char, 16> ignored{};
  if (inet_pton(AF_INET, address.c_str(), ignored.data()) == 1 ||
      inet_pton(AF_INET6, address.c_str(), ignored.data()) == 1) {
    return Ok();
  }
  return MakeError(ErrorCode::kInvalidArgument, "'{}' is not an IP address", address);
}

Result<std::string> AlternativeNames(const IssueOptions& options) {
  GPUMIG_TRY(CheckNodeName(options.node_name));
  std::string names = "DNS:" + TlsNameOf(options.node_name);
  for (const std::string& name : options.dns_names) {
    GPUMIG_TRY(CheckDnsName(name));
    names += ",DNS:" + name;
  }
  for (const std::string& address : options.addresses) {
    GPUMIG_TRY(CheckAddress(address));
    names += ",IP:" + address;
  }
  return names;
}

std::string ExtendedUses(const IssueOptions& options) {
  if (options.may_serve && options.may_call) return "serverAuth,clientAuth";
  return options.may_serve ? "serverAuth" : "clientAuth";
}

struct Authority {
  CertificateHandle certificate;
  KeyHandle key;
  std::string pem;
};

Result<Authority> LoadAuthority(const std::filesystem::path& directory) {
  Authority authority;
  authority.pem = GPUMIG_TRY(ReadTextFile(directory / kAuthorityCertificateFile, kMaxPemBytes));
  const std::string key_pem = GPUMIG_TRY(ReadTextFile(directory / kAuthorityKeyFile, kMaxPemBytes));
  authority.certificate = GPUMIG_TRY(ParseCertificate(authority.pem), "{}", kAuthorityCertificateFile);
  authority.key = GPUMIG_TRY(ParseKey(key_pem), "{}", kAuthorityKeyFile);
  if (X509_check_private_key(authority.certificate.get(), authority.key.get()) != 1) {
    ERR_clear_error();
    return MakeError(ErrorCode::kUntrusted, "ca.key does not belong to ca.crt");
  }
  const CertificateTime not_after = NotAfterOf(authority.certificate.get());
  if (CertificateTimeNow() >= not_after) {
    return MakeError(ErrorCode::kUntrusted, "the authority expired at {}", ToText(not_after))
        .WithNextStep("make a new one with 'gpumig certs init' and issue all identities again");
  }
  return authority;
}

}  // namespace

Result<void> InitAuthority(const std::filesystem::path& directory, const AuthorityOptions& options) {
  const std::string context = fmt::format("make certificate authority {}", directory.string());
  if (options.site_name.empty() || options.site_name.size() > 48) {
    return MakeError(ErrorCode::kInvalidArgument, "{}: the site's name must have 1 to 48 bytes", context);
  }
  if (options.validity <= std::chrono::seconds(0)) {
    return MakeError(ErrorCode::kInvalidArgument, "{}: its validity must be positive", context);
  }
  GPUMIG_TRY(PrepareDirectory(directory, {kAuthorityCertificateFile, kAuthorityKeyFile}), "{}", context);
  const KeyHandle key = GPUMIG_TRY(NewKey(), "{}", context);
  const CertificateTime now = CertificateTimeNow();
  const CertificateHandle certificate = GPUMIG_TRY(
      NewCertificate(key.get(), options.site_name + " CA", now - kClockSkew, now + options.validity), "{}", context);
  X509_NAME* subject = X509_get_subject_name(certificate.get());
  if (X509_set_issuer_name(certificate.get(), subject) != 1) return OpensslFailure(context);
  const std::array<std::pair<int, const char*>, 3> extensions{{{NID_basic_constraints, "critical,CA:TRUE,pathlen:0"},
                                                               {NID_key_usage, "critical,keyCertSign,cRLSign"},
                                                               {NID_subject_key_identifier, "hash"}}};
  for (const auto& [nid, value] : extensions) {
    GPUMIG_TRY(AddExtension(certificate.get(), certificate.get(), nid, value), "{}", context);
  }
  GPUMIG_TRY(Sign(certificate.get(), key.get()), "{}", context);

  const std::string key_pem = GPUMIG_TRY(ToPem(key.get()), "{}", context);
  const std::string certificate_pem = GPUMIG_TRY(ToPem(certificate.get()), "{}", context);

  NewFiles files;
  GPUMIG_TRY(files.Write(directory / kAuthorityKeyFile, key_pem, 0600), "{}", context);
  GPUMIG_TRY(files.Write(directory / kAuthorityCertificateFile, certificate_pem, 0644), "{}", context);
  GPUMIG_TRY(SyncDirectory(directory), "{}", context);
  files.Keep();
  return Ok();
}

Result<void> IssueIdentity(const std::filesystem::path& authority_directory, const std::filesystem::path& out_directory,
                           const IssueOptions& options) {
  const std::string context = fmt::format("issue identity of {}", options.node_name.substr(0, 80));
  if (options.validity <= std::chrono::seconds(0) || (!options.may_serve && !options.may_call)) {
    return MakeError(ErrorCode::kInvalidArgument, "{}: it would be of no use", context);
  }
  const std::string names = GPUMIG_TRY(AlternativeNames(options), "{}", context);
  const Authority authority =
      GPUMIG_TRY(LoadAuthority(authority_directory), "{}: authority {}", context, authority_directory.string());
  GPUMIG_TRY(PrepareDirectory(out_directory, {kNodeCertificateFile, kNodeKeyFile, kAuthorityCertificateFile}), "{}",
             context);

  const CertificateTime not_before = options.not_before.value_or(CertificateTimeNow() - kClockSkew);
  const CertificateTime from = options.not_before.value_or(CertificateTimeNow());
  const CertificateTime not_after = std::min(from + options.validity, NotAfterOf(authority.certificate.get()));
  const KeyHandle key = GPUMIG_TRY(NewKey(), "{}", context);
  const CertificateHandle certificate =
      GPUMIG_TRY(NewCertificate(key.get(), options.node_name, not_before, not_after), "{}", context);
  X509* issuer = authority.certificate.get();
  if (X509_set_issuer_name(certificate.get(), X509_get_subject_name(issuer)) != 1) return OpensslFailure(context);
  const std::array<std::pair<int, std::string>, 6> extensions{{{NID_basic_constraints, "critical,CA:FALSE"},
                                                               {NID_key_usage, "critical,digitalSignature"},
                                                               {NID_ext_key_usage, ExtendedUses(options)},
                                                               {NID_subject_alt_name, names},
                                                               {NID_subject_key_identifier, "hash"},
                                                               {NID_authority_key_identifier, "keyid:always"}}};
  for (const auto& [nid, value] : extensions) {
    GPUMIG_TRY(AddExtension(certificate.get(), issuer, nid, value), "{}", context);
  }
  GPUMIG_TRY(Sign(certificate.get(), authority.key.get()), "{}", context);

  const std::string key_pem = GPUMIG_TRY(ToPem(key.get()), "{}", context);
  const std::string certificate_pem = GPUMIG_TRY(ToPem(certificate.get()), "{}", context);

  NewFiles files;
  GPUMIG_TRY(files.Write(out_directory / kNodeKeyFile, key_pem, 0600), "{}", context);
  GPUMIG_TRY(files.Write(out_directory / kAuthorityCertificateFile, authority.pem, 0644), "{}", context);
  GPUMIG_TRY(files.Write(out_directory / kNodeCertificateFile, certificate_pem, 0644), "{}", context);
  GPUMIG_TRY(SyncDirectory(out_directory), "{}", context);
  // A certificate for one use only is not a node's identity, which needs both.
  if (options.may_serve && options.may_call) {
    GPUMIG_TRY(LoadNodeIdentity(out_directory), "{}", context);
  }
  files.Keep();
  return Ok();
}

}  // namespace gpumig
