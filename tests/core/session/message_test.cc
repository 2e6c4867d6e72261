#include "core/session/message.h"

#include <random>

#include "core/base/file.h"
#include "core/base/json.h"
#include "tests/core/session/handoff_parts.h"
#include "tests/support/matchers.h"

namespace gpumig {
namespace {

TEST(MessageTest, EveryKindComesBackAsItWas) {
  for (int kind = 0; kind < kMessageKindCount; ++kind) {
    Message message = FromTarget(AnyBody(static_cast<MessageKind>(kind)));
    message.signature = {std::byte{1}, std::byte{2}};
    const Result<Message> parsed = ParseMessage(ToJsonText(message));
    ASSERT_THAT(parsed, IsOk()) << kind;
    EXPECT_EQ(*parsed, message) << kind;
  }
  const Message full = FromTarget(Running{{{"restore", std::chrono::microseconds(1500)}}, R"({"pid":42})"});
  const Result<Message> parsed = ParseMessage(ToJsonText(full));
  ASSERT_THAT(parsed, IsOk());
  EXPECT_EQ(*parsed, full);
}

TEST(MessageTest, TheNamesAreThoseOfTheModel) {
  const std::vector<std::string_view> names = {"OFFER", "HAVE",    "PREPARED", "RELEASE", "RUNNING",
                                               "DONE",  "REFUSED", "ABORT",    "QUERY",   "UNKNOWN"};
  for (int kind = 0; kind < kMessageKindCount; ++kind) {
    EXPECT_EQ(Name(static_cast<MessageKind>(kind)), names[static_cast<std::size_t>(kind)]);
    EXPECT_EQ(static_cast<int>(FromTarget(AnyBody(static_cast<MessageKind>(kind))).kind()), kind);
  }
}

// Each member in turn missing, of a wrong type, and out of its range.
TEST(MessageTest, RefusesEachMemberThatIsMissingOrWrong) {
  const std::vector<Message> messages = {FromTarget(AnyBody(MessageKind::kHave)),
                                         FromTarget(AnyBody(MessageKind::kRefused)),
                                         FromTarget(Running{{{"x", std::chrono::microseconds(1)}}, "y"})};
  for (const Message& message : messages) {
    const Result<Json> good = ParseJson(ToJsonText(message));
    ASSERT_THAT(good, IsOk());
    for (const auto& [key, value] : good->items()) {
      Json without = *good;
      without.erase(key);
      EXPECT_THAT(ParseMessage(ToText(without)), FailsWith(ErrorCode::kDamaged, key));
      Json wrong = *good;
      wrong[key] = Json::object();
      EXPECT_THAT(ParseMessage(ToText(wrong)), FailsWith(ErrorCode::kDamaged, key));
    }
  }
  const auto with = [&](const char* key, Json value) {
    Json json = *ParseJson(ToJsonText(messages[0]));
    json[key] = std::move(value);
    return ParseMessage(ToText(json));
  };
  EXPECT_THAT(with("v", 2), FailsWith(ErrorCode::kUnsupported, "version 2"));
  EXPECT_THAT(with("type", "OFFERED"), FailsWith(ErrorCode::kDamaged, "OFFERED"));
  EXPECT_THAT(with("attempt", 0), FailsWith(ErrorCode::kDamaged, "'attempt' is 0"));
  EXPECT_THAT(with("attempt", kMaxAttempt + 1), FailsWith(ErrorCode::kDamaged, "'attempt'"));
  EXPECT_THAT(with("attempt", -1), FailsWith(ErrorCode::kDamaged, "'attempt'"));
  EXPECT_THAT(with("attempt", 1.5), FailsWith(ErrorCode::kDamaged, "'attempt'"));
  EXPECT_THAT(with("from", "../x"), FailsWith(ErrorCode::kDamaged, "'from'"));
  EXPECT_THAT(with("to", std::string(65, 'a')), FailsWith(ErrorCode::kDamaged, "'to'"));
  EXPECT_THAT(with("manifest", std::string(64, '0')), FailsWith(ErrorCode::kDamaged, "names no image"));
  EXPECT_THAT(with("manifest", std::string(64, 'g')), FailsWith(ErrorCode::kDamaged, "'manifest'"));
  EXPECT_THAT(with("manifest", "ab"), FailsWith(ErrorCode::kDamaged, "'manifest'"));
  EXPECT_THAT(with("signature", std::string(258, 'a')), FailsWith(ErrorCode::kDamaged, "limit"));
  EXPECT_THAT(with("lacking", std::string(4 * kMaxLackingBytes, 'a')), FailsWith(ErrorCode::kDamaged, ""));
  EXPECT_THAT(with("progress", "done"), FailsWith(ErrorCode::kDamaged, "'progress'"));
}

TEST(MessageTest, RefusesPartsBeyondTheirLimits) {
  const auto with_parts = [](Json parts) {
    Json json = *ParseJson(ToJsonText(FromTarget(Prepared{})));
    json["parts"] = std::move(parts);
    return ParseMessage(ToText(json));
  };
  EXPECT_THAT(with_parts(Json(std::vector<Json>(kMaxParts, Json::array({"x", 1})))), IsOk());
  EXPECT_THAT(with_parts(Json(std::vector<Json>(kMaxParts + 1, Json::array({"x", 1})))),
              FailsWith(ErrorCode::kDamaged, "limit"));
  EXPECT_THAT(with_parts(Json::array({Json::array({"x", -1})})), FailsWith(ErrorCode::kDamaged, "parts"));
  EXPECT_THAT(with_parts(Json::array({Json::array({"x", 18446744073709551615ULL})})),
              FailsWith(ErrorCode::kDamaged, "parts"));
  EXPECT_THAT(with_parts(Json::array({Json::array({std::string(200, 'x'), 1})})),
              FailsWith(ErrorCode::kDamaged, "parts"));
}

TEST(MessageTest, WhatItWritesItCanReadWhateverTheTextsHold) {
  Message message = FromTarget(Refused{{Reason::kPrepareFailed, std::string(5000, '\xff')}});
  EXPECT_THAT(ParseMessage(ToJsonText(message)), IsOk());
  message.body = Running{std::vector<TimedPart>(100, {std::string(100, '\xfe'), std::chrono::microseconds(-1)}),
                         std::string(10000, '\x80')};
  EXPECT_THAT(ParseMessage(ToJsonText(message)), IsOk());
  message.body = Have{Have::Progress::kReceiving, {false, std::vector<std::byte>(kMaxLackingBytes + 5)}};
  EXPECT_THAT(ParseMessage(ToJsonText(message)), IsOk());
}

TEST(MessageTest, RefusesATextLongerThanTheLimitUnread) {
  EXPECT_THAT(ParseMessage(std::string(kMaxMessageBytes + 1, ' ')), FailsWith(ErrorCode::kDamaged, "above the limit"));
}

// A fuzzer that starts from refused texts finds little.
TEST(MessageTest, TheFuzzersSeedsAreOneMessageOfEachKind) {
  for (int kind = 0; kind < kMessageKindCount; ++kind) {
    std::string name(Name(static_cast<MessageKind>(kind)));
    std::transform(name.begin(), name.end(), name.begin(), [](char c) { return static_cast<char>(std::tolower(c)); });
    const auto text = ReadTextFile(std::filesystem::path(GPUMIG_MESSAGE_SEEDS) / (name + ".json"));
    ASSERT_THAT(text, IsOk());
    const Result<Message> message = ParseMessage(*text);
    ASSERT_THAT(message, IsOk()) << name;
    EXPECT_EQ(static_cast<int>(message->kind()), kind);
  }
}

// Random damage to a good message: an answer or an error, never a crash (run under ASan).
TEST(MessageTest, SurvivesRandomDamage) {
  std::mt19937 random(1);
  const std::string good = ToJsonText(FromTarget(AnyBody(MessageKind::kHave)));
  for (int i = 0; i < 20000; ++i) {
    std::string text = good;
    for (unsigned n = random() % 4 + 1; n > 0; --n) text[random() % text.size()] = static_cast<char>(random() % 256);
    if (random() % 8 == 0) text.resize(random() % text.size());
    const Result<Message> parsed = ParseMessage(text);
    if (parsed) {
      EXPECT_THAT(ParseMessage(ToJsonText(*parsed)), IsOk());
    }
  }
}

}  // namespace
}  // namespace gpumig
