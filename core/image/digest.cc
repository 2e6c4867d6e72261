#include "core/image/digest.h"

#include <openssl/evp.h>

#include <memory>
#include <vector>

#include "core/base/bytes.h"
#include "core/base/check.h"

namespace gpumig {

Digest Digest::Of(std::span<const std::byte> bytes) {
  const std::array<std::span<const std::byte>, 1> parts = {bytes};
  return OfParts(parts);
}

Digest Digest::OfParts(std::span<const std::span<const std::byte>> parts) {
  // SHA-256 has no way to fail but a library that is not there or out of memory; neither leaves a way on.
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  GPUMIG_CHECK(context != nullptr);
  GPUMIG_CHECK(EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1);
  for (const std::span<const std::byte> part : parts) {
    GPUMIG_CHECK(EVP_DigestUpdate(context.get(), part.data(), part.size()) == 1);
  }
  Digest digest;
  unsigned size = 0;
  GPUMIG_CHECK(EVP_DigestFinal_ex(context.get(), reinterpret_cast<unsigned char*>(digest.bytes_.data()), &size) == 1);
  GPUMIG_CHECK(size == kBytes);
  return digest;
}

std::string Digest::ToHex() const { return gpumig::ToHex(bytes_); }

Result<Digest> Digest::FromHex(std::string_view text) {
  if (text.size() != 2 * kBytes) {
    return MakeError(ErrorCode::kInvalidArgument, "a digest has {} hexadecimal digits, not {}", 2 * kBytes,
                     text.size());
  }
  const std::vector<std::byte> bytes = GPUMIG_TRY(gpumig::FromHex(text), "digest");
  return Digest(std::span<const std::byte, kBytes>(bytes.data(), kBytes));
}

}  // namespace gpumig
