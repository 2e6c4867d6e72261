// Manifests from hostile hands: any bytes are refused with a typed error, or are a valid manifest that can be written
// again.
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/base/check.h"
#include "core/image/manifest.h"

namespace gpumig {
namespace {

constexpr std::size_t kTotalOffset = 16;
constexpr std::size_t kDigestOffset = 24;
constexpr std::size_t kDigestEnd = 56;

// A random digest never fits, so nothing behind it would be reached: half of the inputs get theirs made right.
void Seal(std::vector<std::byte>& bytes) {
  const std::uint64_t total = bytes.size();
  std::memcpy(bytes.data() + kTotalOffset, &total, sizeof(total));
  const std::span<const std::byte> all(bytes);
  const std::array<std::span<const std::byte>, 2> parts = {all.first(kDigestOffset), all.subspan(kDigestEnd)};
  const Digest digest = Digest::OfParts(parts);
  std::memcpy(bytes.data() + kDigestOffset, digest.bytes().data(), Digest::kBytes);
}

void TryToParse(const std::vector<std::byte>& bytes) {
  const Result<Manifest> manifest = Manifest::Parse(bytes);
  if (!manifest) {
    GPUMIG_CHECK(manifest.error().code() == ErrorCode::kDamaged || manifest.error().code() == ErrorCode::kUnsupported);
    GPUMIG_CHECK(!manifest.error().message().empty());
    return;
  }
  for (const ManifestFile& file : manifest->files) GPUMIG_CHECK(IsValidFileName(file.name));
  const Result<std::vector<std::byte>> written = manifest->Serialise();
  GPUMIG_CHECK(written.has_value());
  Result<Manifest> again = Manifest::Parse(*written);
  GPUMIG_CHECK(again.has_value());
  again->minor = manifest->minor;
  GPUMIG_CHECK(*again == *manifest);
}

}  // namespace
}  // namespace gpumig

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<std::byte> bytes(size);
  if (size != 0) std::memcpy(bytes.data(), data, size);
  gpumig::TryToParse(bytes);
  if (size >= gpumig::kManifestPrefixBytes) {
    gpumig::Seal(bytes);
    gpumig::TryToParse(bytes);
  }
  return 0;
}
