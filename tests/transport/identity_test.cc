#include "transport/identity.h"

#include <sys/stat.h>

#include "tests/transport/test_site.h"

namespace gpumig {
namespace {

unsigned ModeOf(const std::filesystem::path& path) {
  struct stat status{};
  EXPECT_EQ(stat(path.c_str(), &status), 0);
  return status.st_mode & 07777u;
}

TEST(IdentityTest, IssuedIdentityIsReadBackWhole) {
  TestSite site;
  IssueOptions options;
  options.node_name = "node-a";
  options.dns_names = {"a.example.org"};
  options.addresses = {"10.0.0.1", "fd00::1"};
  options.validity = std::chrono::days(7);
  const auto identity = LoadNodeIdentity(site.Issue(options));
  ASSERT_THAT(identity, IsOk());
  EXPECT_EQ(identity->name, "node-a");
  EXPECT_EQ(identity->serial_number.size(), 32u);
  EXPECT_THAT(CheckDates(*identity, CertificateTimeNow()), IsOk());
  EXPECT_LE(identity->not_after - CertificateTimeNow(), std::chrono::days(7));
  EXPECT_GE(identity->not_after - CertificateTimeNow(), std::chrono::days(7) - std::chrono::minutes(1));
}

TEST(IdentityTest, KeysAreOpenToTheirOwnerOnly) {
  TestSite site;
  const NodeIdentity identity = site.Node("node-a");
  EXPECT_EQ(ModeOf(site.path("ca")), 0700u);
  EXPECT_EQ(ModeOf(site.path("ca") / kAuthorityKeyFile), 0600u);
  EXPECT_EQ(ModeOf(site.path("node-a")), 0700u);
  EXPECT_EQ(ModeOf(identity.key_path), 0600u);
}

TEST(IdentityTest, NothingIsOverwritten) {
  TestSite site;
  site.Node("node-a");
  const std::string before = *ReadTextFile(site.path("node-a") / kNodeKeyFile);
  IssueOptions options;
  options.node_name = "node-a";
  EXPECT_THAT(IssueIdentity(site.path("ca"), site.path("node-a"), options),
              FailsWith(ErrorCode::kAlreadyExists, "nothing was changed"));
  EXPECT_THAT(InitAuthority(site.path("ca")), FailsWith(ErrorCode::kAlreadyExists, "nothing was changed"));
  EXPECT_EQ(*ReadTextFile(site.path("node-a") / kNodeKeyFile), before);
}

TEST(IdentityTest, TwoIdentitiesShareNeitherKeyNorSerialNumber) {
  TestSite site;
  const NodeIdentity a = site.Node("node-a");
  const NodeIdentity b = site.Node("node-b");
  EXPECT_NE(a.key_pem, b.key_pem);
  EXPECT_NE(a.serial_number, b.serial_number);
}

TEST(IdentityTest, RefusesNamesThatAreNoNodeNames) {
  for (const std::string name : {"", "Node", "a.b", "-a", "a-", "*", "a,DNS:b", "a b", "../a", "ä"}) {
    EXPECT_THAT(CheckNodeName(name), FailsWith(ErrorCode::kInvalidArgument, "not a node name")) << name;
  }
  EXPECT_THAT(CheckNodeName(std::string(64, 'a')), FailsWith(ErrorCode::kInvalidArgument, "not a node name"));
  EXPECT_THAT(CheckNodeName(std::string(63, 'a')), IsOk());
}

TEST(IdentityTest, ASecondNodeNameCannotBeSmuggledIn) {
  TestSite site;
  for (const std::string name : {"node-b.gpumig", "node-b.GPUMIG", "x,DNS:node-b.gpumig", "*.gpumig", ""}) {
    IssueOptions options;
    options.node_name = "node-a";
    options.dns_names = {name};
    EXPECT_FALSE(IssueIdentity(site.path("ca"), site.path("x"), options)) << name;
    EXPECT_FALSE(std::filesystem::exists(site.path("x") / kNodeKeyFile));
  }
  IssueOptions options;
  options.node_name = "node-a";
  options.addresses = {"1.2.3.4,DNS:node-b.gpumig"};
  EXPECT_THAT(IssueIdentity(site.path("ca"), site.path("x"), options),
              FailsWith(ErrorCode::kInvalidArgument, "not an IP"));
}

// What an authority of ours does not issue, but another tool with its key could.
CertificateHandle CertificateNaming(const std::string& alternative_names) {
  CertificateHandle certificate(X509_new());
  const std::unique_ptr<X509_EXTENSION, OpensslDeleter<&X509_EXTENSION_free>> extension(
      X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, alternative_names.c_str()));
  EXPECT_EQ(X509_add_ext(certificate.get(), extension.get(), -1), 1);
  return certificate;
}

TEST(IdentityTest, ACertificateSpeaksForExactlyOneNode) {
  EXPECT_EQ(*NodeNameOf(CertificateNaming("DNS:node-a.gpumig").get()), "node-a");
  EXPECT_EQ(*NodeNameOf(CertificateNaming("DNS:x.org,IP:10.0.0.1,DNS:node-a.gpumig").get()), "node-a");
  for (const std::string names : {"DNS:a.gpumig,DNS:b.gpumig", "DNS:a.gpumig,DNS:a.gpumig", "DNS:x.org", "DNS:*.gpumig",
                                  "DNS:.gpumig", "DNS:A.gpumig", "DNS:a.b.gpumig", "IP:10.0.0.1", "DNS:gpumig",
                                  "email:node-a@x.gpumig", "URI:https://node-a.gpumig"}) {
    EXPECT_THAT(NodeNameOf(CertificateNaming(names).get()), FailsWith(ErrorCode::kUntrusted, "the certificate"))
        << names;
  }
  const CertificateHandle without(X509_new());
  EXPECT_THAT(NodeNameOf(without.get()), FailsWith(ErrorCode::kUntrusted, "names no node"));
}

TEST(IdentityTest, RefusesAKeyOfAnotherCertificate) {
  TestSite site;
  site.Node("node-a");
  site.Node("node-b");
  std::filesystem::copy_file(site.path("node-b") / kNodeKeyFile, site.path("node-a") / kNodeKeyFile,
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(LoadNodeIdentity(site.path("node-a")), FailsWith(ErrorCode::kUntrusted, "key does not belong"));
}

TEST(IdentityTest, RefusesAnAuthorityThatDidNotIssueIt) {
  TestSite site;
  TestSite other;
  site.Node("node-a");
  std::filesystem::copy_file(other.path("ca") / kAuthorityCertificateFile,
                             site.path("node-a") / kAuthorityCertificateFile,
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(LoadNodeIdentity(site.path("node-a")), FailsWith(ErrorCode::kUntrusted, "does not hold"));
}

TEST(IdentityTest, RefusesAKeyThatOthersCanRead) {
  TestSite site;
  const NodeIdentity identity = site.Node("node-a");
  ASSERT_EQ(chmod(identity.key_path.c_str(), 0640), 0);
  EXPECT_THAT(LoadNodeIdentity(site.path("node-a")), FailsWith(ErrorCode::kPermissionDenied, "mode 0640"));
}

TEST(IdentityTest, RefusesACertificateForOneUseOnly) {
  TestSite site;
  IssueOptions options;
  options.node_name = "node-a";
  options.may_serve = false;
  EXPECT_THAT(LoadNodeIdentity(site.Issue(options)), FailsWith(ErrorCode::kUntrusted, "as a server's"));
  options.may_serve = true;
  options.may_call = false;
  EXPECT_THAT(LoadNodeIdentity(site.Issue(options, "x")), FailsWith(ErrorCode::kUntrusted, "as a client's"));
}

TEST(IdentityTest, RefusesFilesThatAreNotWhatTheyShouldBe) {
  TestSite site;
  const NodeIdentity identity = site.Node("node-a");
  EXPECT_THAT(LoadNodeIdentity(site.path("nowhere")), FailsWith(ErrorCode::kNotFound, "node.crt"));
  ASSERT_THAT(WriteFileDurably(identity.certificate_path, identity.certificate_pem.substr(0, 200)), IsOk());
  EXPECT_THAT(LoadNodeIdentity(site.path("node-a")), FailsWith(ErrorCode::kDamaged, "not a PEM certificate"));
  ASSERT_THAT(WriteFileDurably(identity.certificate_path, identity.certificate_pem), IsOk());
  ASSERT_THAT(WriteFileDurably(identity.key_path, "junk"), IsOk());
  EXPECT_THAT(LoadNodeIdentity(site.path("node-a")), FailsWith(ErrorCode::kDamaged, "not a PEM private key"));
}

TEST(IdentityTest, DatesAreNamedWithWhatToDo) {
  TestSite site;
  const NodeIdentity identity = site.Node("node-a");
  const auto late = CheckDates(identity, identity.not_after);
  EXPECT_THAT(late, FailsWith(ErrorCode::kUntrusted, "expired at " + ToText(identity.not_after)));
  EXPECT_NE(late.error().next_step().find("certs issue"), std::string::npos);
  EXPECT_THAT(CheckDates(identity, identity.not_before - std::chrono::seconds(1)),
              FailsWith(ErrorCode::kUntrusted, "not yet valid"));
  EXPECT_THAT(CheckDates(identity, identity.not_before), IsOk());
}

TEST(IdentityTest, AnIdentityDoesNotOutliveItsAuthority) {
  TestSite site;
  AuthorityOptions short_lived;
  short_lived.validity = std::chrono::hours(1);
  ASSERT_THAT(InitAuthority(site.path("short"), short_lived), IsOk());
  IssueOptions options;
  options.node_name = "node-a";
  ASSERT_THAT(IssueIdentity(site.path("short"), site.path("node-a"), options), IsOk());
  EXPECT_LE(LoadNodeIdentity(site.path("node-a"))->not_after - CertificateTimeNow(), std::chrono::hours(1));
}

}  // namespace
}  // namespace gpumig
