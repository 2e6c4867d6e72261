#include "core/session/message.h"

#include "core/base/bytes.h"
#include "core/base/json.h"

namespace gpumig {
namespace {

constexpr std::uint64_t kVersion = 1;
constexpr std::array<std::string_view, kMessageKindCount> kKindNames = {
    "OFFER", "HAVE", "PREPARED", "RELEASE", "RUNNING", "DONE", "REFUSED", "ABORT", "QUERY", "UNKNOWN"};
constexpr std::array<std::string_view, 3> kProgressNames = {"receiving", "preparing", "starting"};
// Bytes that are no UTF-8 become U+FFFD when written: three for one.
constexpr std::size_t kGrowth = 3;
constexpr std::uint64_t kLongestPart = 1'000'000'000'000;  // microseconds

template <typename Id>
Result<Id> IdMember(const Json& json, const char* key) {
  const std::string text = GPUMIG_TRY(StringMember(json, key));
  Result<Id> id = Id::FromHex(text);
  if (!id) return MakeError(ErrorCode::kDamaged, "member '{}': {}", key, id.error().message());
  return id;
}

Result<std::string> TextMember(const Json& json, const char* key, std::size_t limit) {
  std::string text = GPUMIG_TRY(StringMember(json, key));
  if (text.size() > limit) {
    return MakeError(ErrorCode::kDamaged, "member '{}' has {} bytes, above the limit of {}", key, text.size(), limit);
  }
  return text;
}

Result<std::vector<std::byte>> BytesMember(const Json& json, const char* key, std::size_t limit) {
  const std::string text = GPUMIG_TRY(TextMember(json, key, 2 * limit));
  Result<std::vector<std::byte>> bytes = FromHex(text);
  if (!bytes) return MakeError(ErrorCode::kDamaged, "member '{}': {}", key, bytes.error().message());
  return bytes;
}

Result<std::string> NodeMember(const Json& json, const char* key) {
  std::string name = GPUMIG_TRY(StringMember(json, key));
  if (!IsNodeName(name)) return MakeError(ErrorCode::kDamaged, "member '{}' is no node name", key);
  return name;
}

// The index of a text in a list of names.
template <std::size_t kCount>
Result<std::size_t> NamedMember(const Json& json, const char* key, const std::array<std::string_view, kCount>& names) {
  const std::string text = GPUMIG_TRY(StringMember(json, key));
  const auto found = std::find(names.begin(), names.end(), text);
  if (found == names.end()) {
    return MakeError(ErrorCode::kDamaged, "member '{}' is '{}', which is unknown", key, text.substr(0, 64));
  }
  return static_cast<std::size_t>(found - names.begin());
}

Json PartsToJson(const std::vector<TimedPart>& parts) {
  Json list = Json::array();
  for (std::size_t i = 0; i < std::min(parts.size(), kMaxParts); ++i) {
    list.push_back(
        Json::array({parts[i].name.substr(0, kMaxPartName), std::max<std::int64_t>(0, parts[i].duration.count())}));
  }
  return list;
}

Result<std::vector<TimedPart>> PartsMember(const Json& json) {
  const Json list = GPUMIG_TRY(ArrayMember(json, "parts"));
  if (list.size() > kMaxParts) {
    return MakeError(ErrorCode::kDamaged, "member 'parts' has {} entries, above the limit of {}", list.size(),
                     kMaxParts);
  }
  std::vector<TimedPart> parts;
  for (const Json& entry : list) {
    const bool well_formed = entry.is_array() && entry.size() == 2 && entry[0].is_string() &&
                             entry[0].get_ref<const std::string&>().size() <= kGrowth * kMaxPartName &&
                             entry[1].is_number_unsigned() && entry[1].get<std::uint64_t>() <= kLongestPart;
    if (!well_formed)
      return MakeError(ErrorCode::kDamaged, "member 'parts' holds an entry that is not [name, microseconds]");
    parts.push_back({entry[0].get<std::string>(),
                     std::chrono::microseconds(static_cast<std::int64_t>(entry[1].get<std::uint64_t>()))});
  }
  return parts;
}

void WriteCause(const Cause& cause, Json& json) {
  json["reason"] = Name(cause.reason);
  json["text"] = cause.text.substr(0, kMaxMessageText);
}

Result<Cause> ReadCause(const Json& json) {
  const std::string name = GPUMIG_TRY(StringMember(json, "reason"));
  const Reason reason = GPUMIG_TRY(ReasonFromName(name), "member 'reason'");
  std::string text = GPUMIG_TRY(TextMember(json, "text", kGrowth * kMaxMessageText));
  return Cause{reason, std::move(text)};
}

struct BodyWriter {
  Json& json;

  void operator()(const Have& have) {
    json["progress"] = kProgressNames.at(static_cast<std::size_t>(have.progress));
    json["complete"] = have.image.complete;
    json["lacking"] = ToHex(std::span(have.image.lacking).first(std::min(have.image.lacking.size(), kMaxLackingBytes)));
  }
  void operator()(const Prepared& prepared) { json["parts"] = PartsToJson(prepared.parts); }
  void operator()(const Running& running) {
    json["parts"] = PartsToJson(running.parts);
    json["detail"] = running.detail.substr(0, kMaxMessageDetail);
  }
  void operator()(const Refused& refused) { WriteCause(refused.cause, json); }
  void operator()(const Abort& abort) { WriteCause(abort.cause, json); }
  template <typename Plain>
  void operator()(const Plain&) {}
};

Result<MessageBody> ReadBody(MessageKind kind, const Json& json) {
  switch (kind) {
    case MessageKind::kOffer:
      return Offer{};
    case MessageKind::kHave: {
      const auto progress = static_cast<Have::Progress>(GPUMIG_TRY(NamedMember(json, "progress", kProgressNames)));
      const bool complete = GPUMIG_TRY(BoolMember(json, "complete"));
      std::vector<std::byte> lacking = GPUMIG_TRY(BytesMember(json, "lacking", kMaxLackingBytes));
      return Have{progress, {complete, std::move(lacking)}};
    }
    case MessageKind::kPrepared:
      return Prepared{GPUMIG_TRY(PartsMember(json))};
    case MessageKind::kRelease:
      return Release{};
    case MessageKind::kRunning: {
      std::vector<TimedPart> parts = GPUMIG_TRY(PartsMember(json));
      // In a statement of its own: g++ 12 leaks what an initialiser list holds when a TRY inside it returns.
      std::string detail = GPUMIG_TRY(TextMember(json, "detail", kGrowth * kMaxMessageDetail));
      return Running{std::move(parts), std::move(detail)};
    }
    case MessageKind::kDone:
      return Done{};
    case MessageKind::kRefused:
      return Refused{GPUMIG_TRY(ReadCause(json))};
    case MessageKind::kAbort:
      return Abort{GPUMIG_TRY(ReadCause(json))};
    case MessageKind::kQuery:
      return Query{};
    case MessageKind::kUnknown:
      return Unknown{};
  }
  return MakeError(ErrorCode::kInternal, "no such message kind");
}

Result<Message> ReadMessage(const Json& json) {
  const std::uint64_t version = GPUMIG_TRY(UnsignedMember(json, "v"));
  if (version != kVersion) {
    return MakeError(ErrorCode::kUnsupported, "it is of version {}, this program speaks version {}", version, kVersion);
  }
  Message message;
  const auto kind = static_cast<MessageKind>(GPUMIG_TRY(NamedMember(json, "type", kKindNames)));
  message.migration = GPUMIG_TRY(IdMember<MigrationId>(json, "migration"));
  const std::uint64_t attempt = GPUMIG_TRY(UnsignedMember(json, "attempt"));
  if (attempt < 1 || attempt > kMaxAttempt) {
    return MakeError(ErrorCode::kDamaged, "member 'attempt' is {}, not within 1 to {}", attempt, kMaxAttempt);
  }
  message.attempt = static_cast<std::uint32_t>(attempt);
  message.from = GPUMIG_TRY(NodeMember(json, "from"));
  message.to = GPUMIG_TRY(NodeMember(json, "to"));
  message.manifest = GPUMIG_TRY(IdMember<ManifestDigest>(json, "manifest"));
  if (message.manifest.IsNone()) return MakeError(ErrorCode::kDamaged, "member 'manifest' names no image");
  message.target_journal = GPUMIG_TRY(IdMember<JournalId>(json, "target_journal"));
  message.signature = GPUMIG_TRY(BytesMember(json, "signature", kMaxSignatureBytes));
  message.body = GPUMIG_TRY(ReadBody(kind, json));
  return message;
}

}  // namespace

std::string_view Name(MessageKind kind) { return kKindNames.at(static_cast<std::size_t>(kind)); }

std::string ToJsonText(const Message& message) {
  Json json = {{"v", kVersion},
               {"type", Name(message.kind())},
               {"migration", message.migration.ToHex()},
               {"attempt", message.attempt},
               {"from", message.from},
               {"to", message.to},
               {"manifest", message.manifest.ToHex()},
               {"target_journal", message.target_journal.ToHex()}};
  std::visit(BodyWriter{json}, message.body);
  json["signature"] = ToHex(message.signature);
  return ToText(json);
}

Result<Message> ParseMessage(std::string_view text) {
  if (text.size() > kMaxMessageBytes) {
    return MakeError(ErrorCode::kDamaged, "handover message has {} bytes, above the limit of {}", text.size(),
                     kMaxMessageBytes);
  }
  const Json json = GPUMIG_TRY(ParseJson(text), "handover message");
  return GPUMIG_TRY(ReadMessage(json), "handover message");
}

}  // namespace gpumig
