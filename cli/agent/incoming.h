// Incoming: the migrations that come to this node.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "cli/agent/config.h"
#include "cli/agent/peer_link.h"
#include "core/base/json.h"
#include "core/session/checkpoint.h"
#include "core/session/local_target.h"
#include "core/session/message.h"
#include "core/session/migration_target.h"

namespace gpumig {

// A migration's parts are made by its first OFFER, and stay until the agent ends: what was refused must stay refused.
//
// Ownership: borrows config and context.device.
// Thread safety: any thread.
class Incoming {
 public:
  static constexpr std::chrono::minutes kAheadIdleLimit{10};
  static constexpr std::size_t kMostAhead = 64;

  Incoming(const AgentConfig& config, SessionContext context);
  ~Incoming();

  // Errors: why this node would refuse the workload that `peer` asks about.
  Result<void> Preflight(const std::string& peer, const PreflightQuestion& question);

  // Of `peer`, whose name must be the one that the message says it is from.
  Result<Message> Handle(const std::string& peer, const Message& message);

  // Memory of a workload that still runs at `peer` may come, before there is an OFFER. What no OFFER follows is removed
  // once nothing has come for kAheadIdleLimit. Errors: kInvalidArgument; kResourceExhausted, too many at once; those of
  // LocalTarget::TakeAhead().
  Result<void> BeginAhead(const std::string& peer, const std::string& migration, std::uint64_t host_bytes);
  // There will be none.
  Result<void> DropAhead(const std::string& peer, const std::string& migration);
  // For what comes in beside the messages. Errors: kNotFound, neither OFFER nor BeginAhead() of this migration was
  // seen; kPermissionDenied, it is another node's.
  Result<std::shared_ptr<LocalTarget>> Image(const std::string& peer, const std::string& migration);

  Result<void> Recover();
  Json StatusOfAll();

 private:
  class Migration;
  struct Ahead {
    std::string peer;
    std::shared_ptr<LocalTarget> image;
    std::chrono::steady_clock::time_point last_seen;
  };
  // Takes those out of ahead_ that nothing comes for any more. REQUIRES: mutex_ is held
  std::vector<Ahead> TakeIdle();
  void DiscardIdle();
  static void Discard(std::vector<Ahead> ahead);
  void RemoveLeftImages() const;

  // Null: there is none, and the message begins none.
  Result<std::shared_ptr<Migration>> FindOrMake(const std::string& peer, const Message& message);

  const AgentConfig& config_;
  SessionContext context_;
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Migration>> migrations_;  // by id in hexadecimal; guarded by mutex_
  std::map<std::string, Ahead> ahead_;                            // likewise, of those that no OFFER was seen of yet
};

}  // namespace gpumig
