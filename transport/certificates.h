// Reading certificates and keys, and the TLS settings that both ends share. For this library's own use.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "core/base/result.h"
#include "transport/identity.h"
#include "transport/openssl_handles.h"

namespace gpumig {

// Errors: kDamaged, not PEM of one certificate or key.
Result<CertificateHandle> ParseCertificate(std::string_view pem);
Result<KeyHandle> ParseKey(std::string_view pem);
Result<std::string> ToPem(X509* certificate);
Result<std::string> ToPem(EVP_PKEY* key);

CertificateTime NotBeforeOf(const X509* certificate);
CertificateTime NotAfterOf(const X509* certificate);

// A store that trusts `authority` and nothing else.
Result<CertificateStoreHandle> TrustOnly(X509* authority);

// TLS 1.3 only, no resumption, the peer must show a certificate of the identity's authority that names a node.
// REQUIRES: `identity` comes from LoadNodeIdentity().
Result<TlsContextHandle> MakeServerContext(const NodeIdentity& identity);

}  // namespace gpumig
