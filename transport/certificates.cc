#include "transport/certificates.h"

#include <openssl/pem.h>

#include <ctime>

namespace gpumig {
namespace {

BioHandle OverText(std::string_view text) {
  return BioHandle(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

std::string TextOf(BIO* memory) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(memory, &data);
  return size > 0 ? std::string(data, static_cast<std::size_t>(size)) : std::string();
}

// Encrypted keys are not for programs that start by themselves: never ask a terminal.
int NoPassphrase(char* /*buffer*/, int /*size*/, int /*for_writing*/, void* /*data*/) { return -1; }

CertificateTime ToTime(const ASN1_TIME* time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return CertificateTime{};
  return CertificateTime(std::chrono::seconds(timegm(&parts)));
}

// Adds to the chain's verdict: the certificate must name a node. Called by OpenSSL for each certificate, leaf last.
int VerifyNamesANode(int chain_holds, X509_STORE_CTX* context) {
  if (chain_holds != 1 || X509_STORE_CTX_get_error_depth(context) != 0) return chain_holds;
  if (NodeNameOf(X509_STORE_CTX_get_current_cert(context))) return 1;
  X509_STORE_CTX_set_error(context, X509_V_ERR_APPLICATION_VERIFICATION);
  return 0;
}

}  // namespace

Result<CertificateHandle> ParseCertificate(std::string_view pem) {
  const BioHandle bio = OverText(pem);
  CertificateHandle certificate(PEM_read_bio_X509(bio.get(), nullptr, NoPassphrase, nullptr));
  if (!certificate) return MakeError(ErrorCode::kDamaged, "not a PEM certificate: {}", TakeOpensslError());
  return certificate;
}

Result<KeyHandle> ParseKey(std::string_view pem) {
  const BioHandle bio = OverText(pem);
  KeyHandle key(PEM_read_bio_PrivateKey(bio.get(), nullptr, NoPassphrase, nullptr));
  if (!key) return MakeError(ErrorCode::kDamaged, "not a PEM private key without passphrase: {}", TakeOpensslError());
  return key;
}

Result<std::string> ToPem(X509* certificate) {
  const BioHandle bio(BIO_new(BIO_s_mem()));
  if (!bio || PEM_write_bio_X509(bio.get(), certificate) != 1) {
    return MakeError(ErrorCode::kInternal, "write certificate: {}", TakeOpensslError());
  }
  return TextOf(bio.get());
}

Result<std::string> ToPem(EVP_PKEY* key) {
  const BioHandle bio(BIO_new(BIO_s_secmem()));
  if (!bio || PEM_write_bio_PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1) {
    return MakeError(ErrorCode::kInternal, "write key: {}", TakeOpensslError());
  }
  return TextOf(bio.get());
}

CertificateTime NotBeforeOf(const X509* certificate) { return ToTime(X509_get0_notBefore(certificate)); }
CertificateTime NotAfterOf(const X509* certificate) { return ToTime(X509_get0_notAfter(certificate)); }

Result<CertificateStoreHandle> TrustOnly(X509* authority) {
  CertificateStoreHandle store(X509_STORE_new());
  if (!store || X509_STORE_add_cert(store.get(), authority) != 1) {
    return MakeError(ErrorCode::kInternal, "set up trust: {}", TakeOpensslError());
  }
  return store;
}

Result<TlsContextHandle> MakeServerContext(const NodeIdentity& identity) {
  const CertificateHandle certificate = GPUMIG_TRY(ParseCertificate(identity.certificate_pem));
  const KeyHandle key = GPUMIG_TRY(ParseKey(identity.key_pem));
  const CertificateHandle authority = GPUMIG_TRY(ParseCertificate(identity.authority_pem));
  CertificateStoreHandle store = GPUMIG_TRY(TrustOnly(authority.get()));

  TlsContextHandle context(SSL_CTX_new(TLS_server_method()));
  if (!context || SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION) != 1 ||
      SSL_CTX_use_certificate(context.get(), certificate.get()) != 1 ||
      SSL_CTX_use_PrivateKey(context.get(), key.get()) != 1 ||
      SSL_CTX_add_client_CA(context.get(), authority.get()) != 1) {
    return MakeError(ErrorCode::kInternal, "set up TLS: {}", TakeOpensslError());
  }
  SSL_CTX_set_cert_store(context.get(), store.release());
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, VerifyNamesANode);
  // A resumed session would skip the check of the certificate, and so outlive it.
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_options(context.get(), SSL_OP_NO_TICKET);
  SSL_CTX_set_num_tickets(context.get(), 0);
  // Without these each record costs two reads, one of five bytes. Whoever waits on the socket must first have read
  // until OpenSSL wants more, as Connection does.
  SSL_CTX_set_read_ahead(context.get(), 1);
  SSL_CTX_set_default_read_buffer_len(context.get(), 64 << 10);
  SSL_CTX_set_mode(context.get(), SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  return context;
}

}  // namespace gpumig
