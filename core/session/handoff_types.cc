#include "core/session/handoff_types.h"

#include <sys/random.h>

#include "core/base/bytes.h"
#include "core/base/check.h"

namespace gpumig {
namespace {

struct StageName {
  Stage stage;
  std::string_view name;
};
constexpr std::array kStages = {
    StageName{Stage::kDump, "S_DUMP"},         StageName{Stage::kSealed, "S_SEALED"},
    StageName{Stage::kReleased, "S_RELEASED"}, StageName{Stage::kAborted, "S_ABORTED"},
    StageName{Stage::kDone, "S_DONE"},         StageName{Stage::kNone, "T_NONE"},
    StageName{Stage::kPrep, "T_PREP"},         StageName{Stage::kAct, "T_ACT"},
    StageName{Stage::kRun, "T_RUN"},           StageName{Stage::kRef, "T_REF"},
    StageName{Stage::kClosed, "T_CLOSED"},
};

// By number.
constexpr std::array<std::string_view, 12> kReasons = {
    "none",
    "operator",
    "deadline",
    "capture failed",
    "sending failed",
    "refused by the target",
    "taken back by the source",
    "prepare failed",
    "expired",
    "restarted",
    "journal failed",
    "violation",
};

}  // namespace

template <typename Tag, std::size_t kSize>
std::string OpaqueId<Tag, kSize>::ToHex() const {
  return gpumig::ToHex(bytes);
}

template <typename Tag, std::size_t kSize>
Result<OpaqueId<Tag, kSize>> OpaqueId<Tag, kSize>::FromHex(std::string_view text) {
  if (text.size() != 2 * kSize) {
    return MakeError(ErrorCode::kInvalidArgument, "id has {} digits, not {}", text.size(), 2 * kSize);
  }
  const std::vector<std::byte> parsed = GPUMIG_TRY(gpumig::FromHex(text));
  OpaqueId id;
  std::copy(parsed.begin(), parsed.end(), id.bytes.begin());
  return id;
}

template <typename Tag, std::size_t kSize>
OpaqueId<Tag, kSize> OpaqueId<Tag, kSize>::Random() {
  OpaqueId id;
  // Up to 256 bytes come whole and without a signal's interruption once the generator is seeded. Source: getrandom(2).
  GPUMIG_CHECK(getrandom(id.bytes.data(), kSize, 0) == static_cast<ssize_t>(kSize));
  GPUMIG_CHECK(!id.IsNone());
  return id;
}

template struct OpaqueId<MigrationIdTag, 16>;
template struct OpaqueId<JournalIdTag, 16>;
template struct OpaqueId<ManifestDigestTag, 32>;

std::string_view SideName(Side side) { return side == Side::kSource ? "source" : "target"; }

std::string_view Name(Stage stage) {
  for (const StageName& known : kStages) {
    if (known.stage == stage) return known.name;
  }
  return "?";
}

Side SideOf(Stage stage) { return stage < Stage::kNone ? Side::kSource : Side::kTarget; }

Result<Stage> StageFromNumber(std::uint8_t number) {
  for (const StageName& known : kStages) {
    if (static_cast<std::uint8_t>(known.stage) == number) return known.stage;
  }
  return MakeError(ErrorCode::kDamaged, "no state has number {}", number);
}

std::string_view Name(CopyState copy) {
  switch (copy) {
    case CopyState::kGone:
      return "gone";
    case CopyState::kStopped:
      return "stopped";
    case CopyState::kLive:
      return "live";
  }
  return "?";
}

std::string_view Name(Reason reason) { return kReasons.at(static_cast<std::size_t>(reason)); }

Result<Reason> ReasonFromNumber(std::uint8_t number) {
  if (number >= kReasons.size()) return MakeError(ErrorCode::kDamaged, "no reason has number {}", number);
  return static_cast<Reason>(number);
}

Result<Reason> ReasonFromName(std::string_view name) {
  const auto found = std::find(kReasons.begin(), kReasons.end(), name);
  if (found == kReasons.end()) return MakeError(ErrorCode::kDamaged, "no reason is called '{}'", name.substr(0, 64));
  return static_cast<Reason>(found - kReasons.begin());
}

bool IsNodeName(std::string_view name) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  };
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), allowed);
}

}  // namespace gpumig
