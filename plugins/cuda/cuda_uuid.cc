#include "plugins/cuda/cuda_uuid.h"

#include <cstring>

#include "core/base/bytes.h"

namespace gpumig {
namespace {

constexpr std::string_view kPrefix = "GPU-";
constexpr std::size_t kTextSize = 36;  // without the prefix: 32 digits and 4 dashes

bool IsDashPlace(std::size_t place) { return place == 8 || place == 13 || place == 18 || place == 23; }

}  // namespace

std::string FormatCudaUuid(const cuda_abi::CUuuid& uuid) {
  const std::string digits = ToHex(std::as_bytes(std::span(uuid.bytes)));
  return fmt::format("{}{}-{}-{}-{}-{}", kPrefix, digits.substr(0, 8), digits.substr(8, 4), digits.substr(12, 4),
                     digits.substr(16, 4), digits.substr(20));
}

Result<cuda_abi::CUuuid> ParseCudaUuid(std::string_view text) {
  const Error wrong =
      MakeError(ErrorCode::kInvalidArgument, "'{}' is not a GPU UUID (GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx)",
                text.substr(0, 64));
  if (!text.starts_with(kPrefix) || text.size() != kPrefix.size() + kTextSize) return wrong;
  text.remove_prefix(kPrefix.size());
  std::string digits;
  for (std::size_t place = 0; place < text.size(); ++place) {
    if (IsDashPlace(place) != (text[place] == '-')) return wrong;
    if (!IsDashPlace(place)) digits += text[place];
  }
  const Result<std::vector<std::byte>> bytes = FromHex(digits);
  cuda_abi::CUuuid uuid{};
  if (!bytes || bytes->size() != sizeof(uuid.bytes)) return wrong;
  std::memcpy(uuid.bytes, bytes->data(), sizeof(uuid.bytes));
  return uuid;
}

}  // namespace gpumig
