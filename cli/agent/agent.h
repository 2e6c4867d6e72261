// Agent: what gpumigd is: the migrations that leave and come, a server for other nodes, and one for this host's
// commands.
#pragma once

#include <memory>

#include "cli/agent/config.h"
#include "cli/agent/incoming.h"
#include "cli/agent/outgoing.h"
#include "cli/composition.h"
#include "transport/http_server.h"
#include "transport/identity.h"

namespace gpumig {

// Runs from Start() until it is destroyed.
class Agent {
 public:
  // Errors: kUntrusted, the identity does not hold or is another node's; kAlreadyExists, the port or socket is taken;
  // those of
  //     Compose(); kDamaged, a journal: then nothing may be guessed, and a person must look.
  static Result<std::unique_ptr<Agent>> Start(AgentConfig config);
  ~Agent();

  const AgentConfig& config() const { return config_; }
  std::string Describe() const;

 private:
  explicit Agent(AgentConfig config) : config_(std::move(config)) {}
  Result<void> Open();
  Router RemoteRoutes();
  Router LocalRoutes();
  Result<Json> LinkRateTo(const Json& question, const HttpRequest& request);

  AgentConfig config_;
  NodeIdentity identity_;
  Composition composition_;
  std::unique_ptr<Incoming> incoming_;
  std::unique_ptr<Outgoing> outgoing_;
  // Last: their handlers use all of the above.
  std::unique_ptr<HttpServer> remote_;
  std::unique_ptr<HttpServer> local_;
};

}  // namespace gpumig
