#include "transport/http_client.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>
#include <mutex>
#include <optional>
#include <utility>

#include "core/base/check.h"
#include "transport/certificates.h"
#include "transport/http_message.h"

namespace gpumig {
namespace {

constexpr long kUploadBufferBytes = 512 << 10;

using EasyHandle = std::unique_ptr<CURL, OpensslDeleter<&curl_easy_cleanup>>;
using MultiHandle = std::unique_ptr<CURLM, OpensslDeleter<&curl_multi_cleanup>>;
using HeaderList = std::unique_ptr<curl_slist, OpensslDeleter<&curl_slist_free_all>>;

void SetUpOnce() {
  static std::once_flag once;
  std::call_once(once, [] {
    GPUMIG_CHECK(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
    // With CURLOPT_NOSIGNAL, which threads need, curl leaves this to us.
    std::signal(SIGPIPE, SIG_IGN);
  });
}

template <typename Value>
void Set(CURL* easy, CURLoption option, Value value) {
  GPUMIG_CHECK(curl_easy_setopt(easy, option, value) == CURLE_OK);
}

void SetBlob(CURL* easy, CURLoption option, const std::string& text) {
  curl_blob blob{const_cast<char*>(text.data()), text.size(), CURL_BLOB_NOCOPY};
  Set(easy, option, &blob);
}

// curl's own sockets would live on in children.
curl_socket_t OpenSocket(void* /*data*/, curlsocktype /*purpose*/, curl_sockaddr* address) {
  return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

std::chrono::milliseconds AtLeastOne(std::chrono::milliseconds limit) {
  return std::max(limit, std::chrono::milliseconds(1));  // 0 means "no limit" to curl
}

// What a TLS alert of the server says about our certificate. Empty: it says nothing about it.
std::string_view MeaningOfAlert(std::string_view text) {
  struct Entry {
    std::string_view alert;
    std::string_view meaning;
  };
  constexpr std::array<Entry, 9> kEntries{{
      {"alert unknown ca", "it is of another authority than the server's"},
      {"alert certificate expired", "it has expired, or is not yet valid, by the server's clock"},
      {"alert certificate revoked", "it was revoked"},
      {"alert bad certificate", "it is not well formed, or not yet valid by the server's clock"},
      {"alert unsupported certificate", "it may not be used to call"},
      {"alert certificate required", "none was sent"},
      {"alert certificate unknown", "the server does not accept it"},
      {"alert access denied", "the server does not accept this node"},
      {"alert handshake failure", "it names no node"},
  }};
  for (const Entry& entry : kEntries) {
    if (text.find(entry.alert) != std::string_view::npos) return entry.meaning;
  }
  return {};
}

}  // namespace

std::string NodeAddress::ToString() const {
  return host.find(':') == std::string::npos ? fmt::format("{} at {}:{}", node, host, port)
                                             : fmt::format("{} at [{}]:{}", node, host, port);
}

class HttpClient::Transfer {
 public:
  Transfer(std::string peer, std::string url_base, const HttpClientOptions& options)
      : peer_(std::move(peer)), url_base_(std::move(url_base)), options_(options) {
    SetUpOnce();
    easy_.reset(curl_easy_init());
    multi_.reset(curl_multi_init());
    GPUMIG_CHECK(easy_ && multi_);
    CURL* easy = easy_.get();
    Set(easy, CURLOPT_NOSIGNAL, 1L);
    Set(easy, CURLOPT_ERRORBUFFER, error_text_.data());
    Set(easy, CURLOPT_HTTP_VERSION, long{CURL_HTTP_VERSION_1_1});
    Set(easy, CURLOPT_FOLLOWLOCATION, 0L);
    Set(easy, CURLOPT_PROXY, "");  // no proxy of the environment
    Set(easy, CURLOPT_OPENSOCKETFUNCTION, &OpenSocket);
    Set(easy, CURLOPT_TCP_NODELAY, 1L);
    Set(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    Set(easy, CURLOPT_UPLOAD_BUFFERSIZE, kUploadBufferBytes);
    Set(easy, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(AtLeastOne(options_.connect_limit).count()));
    set_total_limit(options_.total_limit);
    Set(easy, CURLOPT_LOW_SPEED_LIMIT, static_cast<long>(options_.slowest_bytes_per_second));
    Set(easy, CURLOPT_LOW_SPEED_TIME, static_cast<long>(options_.slow_limit.count()));
    // With a pointer to the body, or a way to rewind it, curl would send a request again by itself when a kept
    // connection breaks. Whether it has arrived is for the caller to find out first. Source: curl 7.88.1,
    // lib/transfer.c, Curl_retry_request() and Curl_readrewind().
    Set(easy, CURLOPT_READFUNCTION, &Transfer::Supply);
    Set(easy, CURLOPT_READDATA, this);
    Set(easy, CURLOPT_SEEKFUNCTION, &Transfer::Rewind);
    Set(easy, CURLOPT_SEEKDATA, this);
    Set(easy, CURLOPT_WRITEFUNCTION, &Transfer::Receive);
    Set(easy, CURLOPT_WRITEDATA, this);
  }
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;
  ~Transfer() {
    multi_.reset();  // its connections refer to the easy handle
  }

  void UseUnixSocket(const std::filesystem::path& path) { Set(easy_.get(), CURLOPT_UNIX_SOCKET_PATH, path.c_str()); }

  void UseTls(const NodeAddress& address, const NodeIdentity& identity) {
    address_ = address;
    identity_ = identity;
    CURL* easy = easy_.get();
    // The name to verify is the node's, wherever it is reached.
    const std::string host = address.host.find(':') == std::string::npos ? address.host : "[" + address.host + "]";
    connect_to_.reset(curl_slist_append(
        nullptr, fmt::format("{}:{}:{}:{}", TlsNameOf(address.node), address.port, host, address.port).c_str()));
    Set(easy, CURLOPT_CONNECT_TO, connect_to_.get());
    Set(easy, CURLOPT_SSLVERSION, long{CURL_SSLVERSION_TLSv1_3});
    Set(easy, CURLOPT_SSL_VERIFYPEER, 1L);
    Set(easy, CURLOPT_SSL_VERIFYHOST, 2L);
    Set(easy, CURLOPT_SSL_SESSIONID_CACHE, 0L);
    Set(easy, CURLOPT_SSL_ENABLE_ALPN, 0L);
    // Only the site's authority counts; curl would also look into the system's directory of public ones.
    Set(easy, CURLOPT_CAPATH, static_cast<char*>(nullptr));
    Set(easy, CURLOPT_CAINFO, static_cast<char*>(nullptr));
    SetBlob(easy, CURLOPT_CAINFO_BLOB, identity_->authority_pem);
    SetBlob(easy, CURLOPT_SSLCERT_BLOB, identity_->certificate_pem);
    SetBlob(easy, CURLOPT_SSLKEY_BLOB, identity_->key_pem);
    Set(easy, CURLOPT_SSL_CTX_FUNCTION, &Transfer::ConfigureTls);
    Set(easy, CURLOPT_SSL_CTX_DATA, this);
  }

  Result<HttpReply> Send(std::string_view method, const std::string& target, std::string_view content_type,
                         std::span<const std::byte> body, const std::stop_token& stop) {
    if (identity_) GPUMIG_TRY(CheckDates(*identity_, CertificateTimeNow()), "cannot call {}", peer_);
    Prepare(method, target, content_type, body);
    const CURLcode code = Perform(stop);
    curl_off_t uploaded = 0;
    curl_easy_getinfo(easy_.get(), CURLINFO_SIZE_UPLOAD_T, &uploaded);
    long connections = 0;
    curl_easy_getinfo(easy_.get(), CURLINFO_NUM_CONNECTS, &connections);
    bytes_sent_ += static_cast<std::uint64_t>(uploaded);
    connection_count_ += static_cast<std::uint64_t>(connections);
    if (stop.stop_requested() && code != CURLE_OK) {
      return MakeError(ErrorCode::kCancelled, "{} {}: cancelled", method, peer_);
    }
    long status = 0;
    curl_easy_getinfo(easy_.get(), CURLINFO_RESPONSE_CODE, &status);
    // A peer that refuses a body answers before it has it all and then closes; what it said is worth more than the cut.
    if (code != CURLE_OK && (code != CURLE_SEND_ERROR || status < 400)) return ErrorOfCurl(code);
    if (status >= 400) return ErrorOf(static_cast<int>(status), reply_.body);
    reply_.status = static_cast<int>(status);
    return std::move(reply_);
  }

  void set_total_limit(std::chrono::milliseconds limit) {
    Set(easy_.get(), CURLOPT_TIMEOUT_MS, static_cast<long>(AtLeastOne(limit).count()));
  }
  std::uint64_t bytes_sent() const { return bytes_sent_; }
  std::uint64_t connection_count() const { return connection_count_; }

 private:
  void Prepare(std::string_view method, const std::string& target, std::string_view content_type,
               std::span<const std::byte> body) {
    CURL* easy = easy_.get();
    reply_ = {};
    reply_too_big_ = false;
    server_node_.clear();
    error_text_.fill('\0');
    Set(easy, CURLOPT_URL, (url_base_ + target).c_str());
    if (method == "GET") {
      Set(easy, CURLOPT_HTTPGET, 1L);
    } else {
      Set(easy, CURLOPT_POST, 1L);
      Set(easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
      body_ = body;
      body_left_ = body;
    }
    Set(easy, CURLOPT_CUSTOMREQUEST, std::string(method).c_str());
    HeaderList headers(curl_slist_append(nullptr, fmt::format("Content-Type: {}", content_type).c_str()));
    // No "Expect: 100-continue": it costs a round trip per chunk.
    GPUMIG_CHECK(curl_slist_append(headers.get(), "Expect:") != nullptr);
    headers_ = std::move(headers);
    Set(easy, CURLOPT_HTTPHEADER, headers_.get());
  }

  // curl_easy_perform() with a wake-up: a stop request ends it at once.
  CURLcode Perform(const std::stop_token& stop) {
    const std::stop_callback wake(stop, [this] { curl_multi_wakeup(multi_.get()); });
    if (curl_multi_add_handle(multi_.get(), easy_.get()) != CURLM_OK) return CURLE_FAILED_INIT;
    CURLcode code = CURLE_ABORTED_BY_CALLBACK;
    int running = 1;
    while (running != 0 && !stop.stop_requested()) {
      if (curl_multi_perform(multi_.get(), &running) != CURLM_OK) break;
      if (running != 0 && curl_multi_poll(multi_.get(), nullptr, 0, 1000, nullptr) != CURLM_OK) break;
    }
    int left = 0;
    while (const CURLMsg* message = curl_multi_info_read(multi_.get(), &left)) {
      if (message->msg == CURLMSG_DONE) code = message->data.result;
    }
    curl_multi_remove_handle(multi_.get(), easy_.get());
    return code;
  }

  Error ErrorOfCurl(CURLcode code) const {
    const char* detail = error_text_[0] != '\0' ? error_text_.data() : curl_easy_strerror(code);
    const std::string_view meaning = MeaningOfAlert(detail);
    if (!meaning.empty()) {
      return MakeError(ErrorCode::kUntrusted, "{} refused the certificate of this node ({}, serial number {}): {} ({})",
                       peer_, identity_->name, identity_->serial_number, meaning, detail)
          .WithNextStep("compare the clocks, and issue this node's identity with the authority of that node's site");
    }
    switch (code) {
      case CURLE_PEER_FAILED_VERIFICATION:
        return Untrusted(detail);
      case CURLE_SSL_CONNECT_ERROR:
        if (FailsBelowTls(detail)) return Unavailable(detail);
        return MakeError(ErrorCode::kUntrusted, "TLS handshake with {} failed: {}", peer_, detail)
            .WithNextStep("check that gpumigd listens on that port");
      case CURLE_OPERATION_TIMEDOUT:
        return TimedOut(detail);
      case CURLE_WRITE_ERROR:
        if (!reply_too_big_) break;
        return MakeError(ErrorCode::kDamaged, "{} answered with more than {} bytes", peer_, options_.max_reply_bytes);
      case CURLE_SEND_FAIL_REWIND:
        return Unavailable("the connection broke in the middle of the request");
      case CURLE_COULDNT_CONNECT:
      case CURLE_COULDNT_RESOLVE_HOST:
      case CURLE_GOT_NOTHING:
      case CURLE_PARTIAL_FILE:
      case CURLE_RECV_ERROR:
      case CURLE_SEND_ERROR:
        return Unavailable(detail);
      case CURLE_OUT_OF_MEMORY:
        return MakeError(ErrorCode::kResourceExhausted, "call {}: {}", peer_, detail);
      case CURLE_UNSUPPORTED_PROTOCOL:
      case CURLE_WEIRD_SERVER_REPLY:
        return MakeError(ErrorCode::kDamaged, "{} does not speak HTTP: {}", peer_, detail);
      default:
        break;
    }
    return MakeError(ErrorCode::kInternal, "call {}: {} (curl {})", peer_, detail, static_cast<int>(code));
  }

  static bool FailsBelowTls(std::string_view detail) {
    return detail.find("SSL_ERROR_SYSCALL") != std::string_view::npos ||
           detail.find("reset by peer") != std::string_view::npos ||
           detail.find("unexpected eof") != std::string_view::npos;
  }

  // "cannot reach node-b at 10.0.0.2:7443: Connection refused": where the system gave a reason, it says more than curl.
  Error Unavailable(std::string_view detail) const {
    long error_number = 0;
    curl_easy_getinfo(easy_.get(), CURLINFO_OS_ERRNO, &error_number);
    const std::string cause =
        error_number != 0 ? Error::FromErrno(static_cast<int>(error_number), detail).message() : std::string(detail);
    Error error = MakeError(ErrorCode::kUnavailable, "cannot reach {}: {}", peer_, cause);
    if (!address_) return std::move(error).WithNextStep("start gpumigd on this host");
    return std::move(error).WithNextStep("check that gpumigd runs there, and that address and port are right");
  }

  Error TimedOut(std::string_view detail) const {
    curl_off_t connected = 0;
    curl_easy_getinfo(easy_.get(), CURLINFO_PRETRANSFER_TIME_T, &connected);
    if (connected == 0) return Unavailable(detail);
    return MakeError(ErrorCode::kDeadlineExceeded, "{} did not answer in time: {}", peer_, detail);
  }

  Error Untrusted(std::string_view detail) const {
    if (!server_node_.empty() && server_node_ != address_->node) {
      return MakeError(ErrorCode::kUntrusted, "{}:{} is {}, not {}", address_->host, address_->port, server_node_,
                       address_->node)
          .WithNextStep("correct the address of that node");
    }
    return MakeError(ErrorCode::kUntrusted, "the certificate of {} does not hold: {}", peer_, detail)
        .WithNextStep("compare the clocks, and issue that node's identity with the authority of this node's site");
  }

  static CURLcode ConfigureTls(CURL* /*easy*/, void* context, void* self) {
    auto* tls = static_cast<SSL_CTX*>(context);
    SSL_CTX_set_ex_data(tls, ExtraDataIndex(), self);
    SSL_CTX_set_verify(tls, SSL_VERIFY_PEER, &Transfer::NoteServer);
    return CURLE_OK;
  }

  // Changes no verdict but one: a certificate that names no node, or several, holds for none.
  static int NoteServer(int chain_holds, X509_STORE_CTX* context) {
    if (X509_STORE_CTX_get_error_depth(context) != 0) return chain_holds;
    const auto* tls =
        static_cast<const SSL*>(X509_STORE_CTX_get_ex_data(context, SSL_get_ex_data_X509_STORE_CTX_idx()));
    auto* self = static_cast<Transfer*>(SSL_CTX_get_ex_data(SSL_get_SSL_CTX(tls), ExtraDataIndex()));
    const Result<std::string> node = NodeNameOf(X509_STORE_CTX_get_current_cert(context));
    if (chain_holds == 1 && node) self->server_node_ = *node;
    if (chain_holds == 1 && !node) {
      X509_STORE_CTX_set_error(context, X509_V_ERR_APPLICATION_VERIFICATION);
      return 0;
    }
    return chain_holds;
  }

  static int ExtraDataIndex() {
    static const int index = SSL_CTX_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
    return index;
  }

  static std::size_t Supply(char* bytes, std::size_t /*one*/, std::size_t size, void* data) {
    auto* self = static_cast<Transfer*>(data);
    const std::size_t count = std::min(size, self->body_left_.size());
    if (count > 0) std::memcpy(bytes, self->body_left_.data(), count);
    self->body_left_ = self->body_left_.subspan(count);
    return count;
  }

  // libcurl wants to send a body again where a connection that it had kept turns out to be closed. That fails
  // (CURLE_SEND_FAIL_REWIND): what arrived is not known, and the caller may have something better to do than to send it
  // twice. libcurl 8.14 asks once more when the next request begins, of which nothing is sent yet.
  static int Rewind(void* data, curl_off_t offset, int /*origin*/) {
    const auto* self = static_cast<const Transfer*>(data);
    const bool nothing_sent = self->body_left_.size() == self->body_.size();
    return offset == 0 && nothing_sent ? CURL_SEEKFUNC_OK : CURL_SEEKFUNC_FAIL;
  }

  static std::size_t Receive(const char* bytes, std::size_t /*one*/, std::size_t size, void* data) {
    auto* self = static_cast<Transfer*>(data);
    if (self->reply_.body.size() + size > self->options_.max_reply_bytes) {
      self->reply_too_big_ = true;
      return 0;
    }
    self->reply_.body.append(bytes, size);
    return size;
  }

  const std::string peer_;  // for messages
  const std::string url_base_;
  const HttpClientOptions options_;
  std::optional<NodeAddress> address_;
  std::optional<NodeIdentity> identity_;
  HeaderList connect_to_;
  HeaderList headers_;
  std::array<char, CURL_ERROR_SIZE> error_text_{};
  std::span<const std::byte> body_;       // of the request under way
  std::span<const std::byte> body_left_;  // what of it is not sent yet
  HttpReply reply_;
  bool reply_too_big_ = false;
  std::string server_node_;  // whom the server's certificate names, once its chain holds
  std::uint64_t bytes_sent_ = 0;
  std::uint64_t connection_count_ = 0;
  EasyHandle easy_;
  MultiHandle multi_;
};

Result<HttpClient> HttpClient::ToNode(const NodeAddress& address, const NodeIdentity& identity,
                                      const HttpClientOptions& options) {
  GPUMIG_TRY(CheckNodeName(address.node), "call {}", address.ToString());
  const bool odd = address.host.empty() || address.host.size() > 253 ||
                   address.host.find_first_not_of(
                       "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.:%_") != std::string::npos;
  if (odd || address.port == 0) {
    return MakeError(ErrorCode::kInvalidArgument, "call {}: that is no host and port", address.node);
  }
  auto transfer = std::make_unique<Transfer>(
      address.ToString(), fmt::format("https://{}:{}", TlsNameOf(address.node), address.port), options);
  transfer->UseTls(address, identity);
  return HttpClient(std::move(transfer));
}

Result<HttpClient> HttpClient::ToUnixSocket(const std::filesystem::path& path, const HttpClientOptions& options) {
  if (path.empty() || path.string().size() > 107) {
    return MakeError(ErrorCode::kInvalidArgument, "a unix socket's path has 1 to 107 bytes");
  }
  auto transfer =
      std::make_unique<Transfer>(fmt::format("the local agent at {}", path.string()), "http://localhost", options);
  transfer->UseUnixSocket(path);
  return HttpClient(std::move(transfer));
}

HttpClient::HttpClient(std::unique_ptr<Transfer> transfer) : transfer_(std::move(transfer)) {}
HttpClient::HttpClient(HttpClient&&) noexcept = default;
HttpClient& HttpClient::operator=(HttpClient&&) noexcept = default;
HttpClient::~HttpClient() = default;
void HttpClient::set_total_limit(std::chrono::milliseconds limit) { transfer_->set_total_limit(limit); }
std::uint64_t HttpClient::bytes_sent() const { return transfer_->bytes_sent(); }
std::uint64_t HttpClient::connection_count() const { return transfer_->connection_count(); }

Result<HttpReply> HttpClient::Send(std::string_view method, const std::string& target, std::string_view content_type,
                                   std::span<const std::byte> body, std::stop_token stop) {
  return transfer_->Send(method, target, content_type, body, stop);
}

}  // namespace gpumig
