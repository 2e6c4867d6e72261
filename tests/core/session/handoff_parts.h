// What the handover's tests build their cases from: ids, messages, and one-line summaries of steps.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>
#include <vector>

#include "core/session/handoff_source.h"
#include "core/session/handoff_target.h"

namespace gpumig {

template <typename Id>
Id IdOf(int number) {
  Id id;
  id.bytes.fill(static_cast<std::byte>(number));
  return id;
}

inline Binding TestBinding() { return {IdOf<MigrationId>(7), "node-a", "node-b"}; }
inline ManifestDigest ImageOf(std::uint32_t attempt) { return IdOf<ManifestDigest>(0x40 + static_cast<int>(attempt)); }
inline JournalId TargetJournal() { return IdOf<JournalId>(0x21); }
inline JournalId OtherJournal() { return IdOf<JournalId>(0x22); }

inline Message FromTarget(MessageBody body, std::uint32_t attempt = 1) {
  return {TestBinding().migration, attempt, "node-b", "node-a", ImageOf(attempt), TargetJournal(), std::move(body), {}};
}
inline Message FromSource(MessageBody body, std::uint32_t attempt = 1) {
  return {TestBinding().migration, attempt, "node-a", "node-b", ImageOf(attempt), TargetJournal(), std::move(body), {}};
}

// One of each kind, as far as a test does not care what is in it.
inline MessageBody AnyBody(MessageKind kind) {
  switch (kind) {
    case MessageKind::kOffer:
      return Offer{};
    case MessageKind::kHave:
      return Have{Have::Progress::kReceiving, {false, {std::byte{1}}}};
    case MessageKind::kPrepared:
      return Prepared{};
    case MessageKind::kRelease:
      return Release{};
    case MessageKind::kRunning:
      return Running{};
    case MessageKind::kDone:
      return Done{};
    case MessageKind::kRefused:
      return Refused{{Reason::kPrepareFailed, "no room"}};
    case MessageKind::kAbort:
      return Abort{{Reason::kDeadline, "late"}};
    case MessageKind::kQuery:
      return Query{};
    case MessageKind::kUnknown:
      return Unknown{};
  }
  return Query{};
}

inline std::string RecordText(const std::optional<StateRecord>& record) {
  if (!record) return "-";
  return std::string(Name(record->stage)) + (record->settled ? " settled" : "");
}

// "record; messages; actions", '-' for none, '!' at the end for an alarm: "S_RELEASED; RELEASE; -".
inline std::string Summary(const SourceStep& step) {
  std::vector<std::string> messages;
  std::vector<std::string> actions;
  for (const Message& message : step.messages) messages.emplace_back(Name(message.kind()));
  for (const SourceAction action : step.actions) actions.emplace_back(Name(action));
  return fmt::format("{}; {}; {}{}", RecordText(step.record),
                     messages.empty() ? "-" : fmt::format("{}", fmt::join(messages, " ")),
                     actions.empty() ? "-" : fmt::format("{}", fmt::join(actions, " ")), step.alarm.empty() ? "" : "!");
}
inline std::string Summary(const TargetStep& step) {
  std::vector<std::string> actions;
  for (const TargetAction action : step.actions) actions.emplace_back(Name(action));
  return fmt::format("{}; {}; {}{}", RecordText(step.record), step.reply ? Name(step.reply->kind()) : "-",
                     actions.empty() ? "-" : fmt::format("{}", fmt::join(actions, " ")), step.alarm.empty() ? "" : "!");
}

}  // namespace gpumig
