// gpumig cache add, list and remove.
#include "cli/cache_commands.h"

#include <algorithm>
#include <thread>

#include "core/image/chunk_cache.h"
#include "core/session/site.h"

namespace gpumig {
namespace {

ChunkCache CacheOfThisNode() { return ChunkCache(ChunkCache::DirectoryIn(Site::FromEnvironment().state_directory)); }

Json ToJson(const CacheItem& item) {
  Json json = {{"id", item.id},
               {"kind", item.trouble.empty() ? Name(item.kind) : "damaged"},
               {"path", item.path.string()},
               {"bytes", item.bytes},
               {"chunks", item.chunk_count}};
  if (!item.trouble.empty()) json["trouble"] = item.trouble;
  return json;
}

std::string Line(const CacheItem& item) {
  return fmt::format("{:<8} {:>10} {:>7} chunks  {}  {}\n", item.trouble.empty() ? Name(item.kind) : "damaged",
                     HumanBytes(item.bytes), item.chunk_count, item.id,
                     item.trouble.empty() ? item.path.string() : item.trouble);
}

// One after the other; the first that fails ends it, and those before stay done.
template <typename Each>
CommandOutcome ForEach(const std::vector<std::string>& names, const Each& each) {
  CommandOutcome outcome;
  outcome.json["items"] = Json::array();
  for (const std::string& name : names) {
    if (const Result<void> done = each(name, outcome); !done) return Refusal(done.error());
  }
  return outcome;
}

}  // namespace

CommandOutcome AddToCache(const std::vector<std::string>& paths) {
  ChunkCache cache = CacheOfThisNode();
  ProgressBar bar;
  return ForEach(paths, [&](const std::string& path, CommandOutcome& outcome) -> Result<void> {
    ParallelOptions parallel;
    parallel.workers = std::max(1u, std::thread::hardware_concurrency());
    parallel.progress = [&](std::uint64_t done, std::uint64_t total) {
      bar.Update("reading", total == 0 ? 1.0 : static_cast<double>(done) / static_cast<double>(total));
    };
    const CacheItem item = GPUMIG_TRY(cache.Add(path, parallel));
    outcome.json["items"].push_back(ToJson(item));
    outcome.text += Line(item);
    return Ok();
  });
}

CommandOutcome ListCache() {
  const Result<std::vector<CacheItem>> items = CacheOfThisNode().List();
  if (!items) return Refusal(items.error());
  CommandOutcome outcome;
  outcome.json["items"] = Json::array();
  std::uint64_t kept_bytes = 0;
  for (const CacheItem& item : *items) {
    outcome.json["items"].push_back(ToJson(item));
    outcome.text += Line(item);
    if (item.kind == CacheKind::kKept) kept_bytes += item.bytes;
  }
  outcome.json["kept_bytes"] = kept_bytes;
  return outcome;
}

CommandOutcome RemoveFromCache(const std::vector<std::string>& ids_or_paths) {
  ChunkCache cache = CacheOfThisNode();
  return ForEach(ids_or_paths, [&](const std::string& name, CommandOutcome& outcome) -> Result<void> {
    GPUMIG_TRY(cache.Remove(name));
    outcome.json["items"].push_back(name);
    return Ok();
  });
}

}  // namespace gpumig
