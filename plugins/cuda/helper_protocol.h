// What gpumig and its GPU helper process say to each other: one JSON object per packet on a SOCK_SEQPACKET socket.
//
// A helper is the child of its owner, and may serve others beside. Those may be of another build, see another driver or
// other processes: they compare what the helper says of itself with what they are. Messages are checked in any case: a
// helper that a driver has damaged may say anything.
//
// Format: {"call": NAME, ...} is answered by {"ok": true, ...} or {"ok": false, "code": NAME, "message": ...,
// "next_step": ...}. The helper speaks first, when the driver has come up or has not: the answer to a call that was not
// made.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "core/base/json.h"
#include "core/base/result.h"

namespace gpumig {

inline constexpr std::size_t kMaxHelperMessageBytes = std::size_t{128} << 10;

// Errors: kUnavailable, the other end is gone.
Result<void> SendHelperMessage(int socket, const Json& message);
// Errors: kUnavailable, the other end is gone; kDamaged, what came is no such message; kDeadlineExceeded.
Result<Json> ReceiveHelperMessage(int socket, std::optional<std::chrono::steady_clock::time_point> deadline);

// Of a process that opens these libraries: format version, its environment as far as drivers look at it, and which
// processes its pids mean. A helper serves those alone who are equal to it in that.
std::string HelperIdentity(const std::string& library, const std::string& software_library);

Json HelperOk();
Json HelperFailure(const Error& error);
// Ok, or the error that it carries. Errors: kDamaged, it is no answer.
Result<void> CheckHelperAnswer(const Json& answer);

}  // namespace gpumig
