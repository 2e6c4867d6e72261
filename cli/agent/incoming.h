// Incoming: the migrations that come to this node.
#pragma once

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
  Incoming(const AgentConfig& config, SessionContext context);
  ~Incoming();

  // Errors: why this node would refuse the workload.
  Result<void> Preflight(const PreflightQuestion& question);

  // Of `peer`, whose name must be the one that the message says it is from.
  Result<Message> Handle(const std::string& peer, const Message& message);

  // For what comes in beside the messages. Errors: kNotFound, no OFFER of this migration was seen; kPermissionDenied,
  // it is another node's.
  Result<LocalTarget*> Image(const std::string& peer, const std::string& migration);

  Result<void> Recover();
  Json StatusOfAll() const;

 private:
  class Migration;
  // Null: there is none, and the message begins none.
  Result<std::shared_ptr<Migration>> FindOrMake(const std::string& peer, const Message& message);

  const AgentConfig& config_;
  SessionContext context_;
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Migration>> migrations_;  // by id in hexadecimal; guarded by mutex_
};

}  // namespace gpumig
