// Outgoing: the migrations that leave this node, each driven by a thread of its own.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "cli/agent/config.h"
#include "cli/agent/ended_migrations.h"
#include "cli/agent/peer_link.h"
#include "core/base/json.h"
#include "core/session/checkpoint.h"
#include "core/session/handoff_types.h"
#include "core/session/registry.h"
#include "transport/identity.h"

namespace gpumig {

struct MigrationRequest {
  Workload workload;
  std::string to;
  std::chrono::milliseconds max_downtime{60'000};
  CaptureOptions capture;
  bool live = false;  // copy memory while it runs, see LiveCopy
  SendingWishes sending;
};

// Ownership: borrows config, identity and context.device.
// Thread safety: any thread.
class Outgoing {
 public:
  Outgoing(const AgentConfig& config, const NodeIdentity& identity, SessionContext context);
  // Stops all; what was decided stays in the journals.
  ~Outgoing();

  // Asks the target whether it would do, then begins. Gives the migration's id. Errors: nothing was touched.
  Result<std::string> Begin(const MigrationRequest& request);

  // Goes on with, or undoes, what journals say was under way when an earlier agent ended.
  Result<void> Recover();

  // {"id", "workload", "target", "phase", "state", ... and, once it has ended, "ended" and "report"}, also of those
  // that ended under an earlier agent, as long as they are remembered. Errors: kNotFound.
  Result<Json> Status(const std::string& id) const;
  Json StatusOfAll() const;
  Result<void> Abort(const std::string& id);

 private:
  class Migration;

  Result<std::shared_ptr<Migration>> Find(const std::string& id) const;
  void Start(std::shared_ptr<Migration> migration, bool recover);
  // Of one whose journal is settled only its last status is kept.
  void Retire(const Migration& migration);

  const AgentConfig& config_;
  const NodeIdentity& identity_;
  SessionContext context_;
  EndedMigrations ended_;
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Migration>> migrations_;  // by id; guarded by mutex_
  std::vector<std::thread> threads_;                              // guarded by mutex_
};

}  // namespace gpumig
