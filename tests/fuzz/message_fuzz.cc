// Hand-over messages from hostile hands: any text is refused with a typed error, or is a message that can be written
// again and comes back as it was.
#include <cstdint>
#include <string>
#include <string_view>

#include "core/base/check.h"
#include "core/session/message.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace gpumig;
  const Result<Message> message = ParseMessage({reinterpret_cast<const char*>(data), size});
  if (!message) {
    GPUMIG_CHECK(message.error().code() == ErrorCode::kDamaged || message.error().code() == ErrorCode::kUnsupported);
    GPUMIG_CHECK(!message.error().message().empty());
    return 0;
  }
  GPUMIG_CHECK(message->attempt >= 1 && message->attempt <= kMaxAttempt);
  GPUMIG_CHECK(IsNodeName(message->from) && IsNodeName(message->to));
  GPUMIG_CHECK(!message->manifest.IsNone());
  // Texts may have come longer than we write them, so it is what we write that must be stable.
  const std::string written = ToJsonText(*message);
  GPUMIG_CHECK(written.size() <= kMaxMessageBytes);
  const Result<Message> again = ParseMessage(written);
  GPUMIG_CHECK(again.has_value());
  GPUMIG_CHECK(again->kind() == message->kind() && again->migration == message->migration);
  GPUMIG_CHECK(ToJsonText(*again) == written);
  return 0;
}
