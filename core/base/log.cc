#include "core/base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

#include <memory>
#include <string>

namespace gpumig {

void SetUpLogging(std::string_view level) {
  auto logger = std::make_shared<spdlog::logger>("gpumig", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%l%$ %v");
  const std::string name(level);
  logger->set_level(name == "debug" || name == "warn" || name == "error" || name == "off"
                        ? spdlog::level::from_str(name)
                        : spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace gpumig
