#include "transport/chunk_service.h"

#include <utility>

namespace gpumig {
namespace {

Result<std::shared_ptr<ChunkSink>> FindSink(const ChunkSinkFinder& find, const HttpRequest& request) {
  const std::string& migration_id = request.parameters.find("migration")->second;
  GPUMIG_TRY(CheckMigrationId(migration_id));
  return find(migration_id, request.peer);
}

Result<HttpResponse> AnswerLacking(const ChunkSinkFinder& find, const HttpRequest& request) {
  const std::shared_ptr<ChunkSink> sink = GPUMIG_TRY(FindSink(find, request));
  const std::vector<ChunkDigest> digests = GPUMIG_TRY(DecodeDigests(request.body));
  const std::vector<bool> lacking = GPUMIG_TRY(sink->Lacks(digests));
  if (lacking.size() != digests.size()) {
    return MakeError(ErrorCode::kInternal, "asked for {} chunks, the store answered for {}", digests.size(),
                     lacking.size());
  }
  return HttpResponse{200, "application/octet-stream", EncodeBitmap(lacking)};
}

Result<HttpResponse> TakeChunk(const ChunkSinkFinder& find, const HttpRequest& request) {
  const std::shared_ptr<ChunkSink> sink = GPUMIG_TRY(FindSink(find, request));
  const std::string& name = request.parameters.find("digest")->second;
  const ChunkDigest digest = GPUMIG_TRY(DigestOfHex(name));
  GPUMIG_TRY(sink->Put(digest, request.body), "take chunk {} of {} bytes", name.substr(0, 8), request.body.size());
  return HttpResponse();
}

}  // namespace

void AddChunkRoutes(Router& router, ChunkSinkFinder find) {
  router.Add(
      "POST", "/v1/migrations/{migration}/lacking",
      [find](const HttpRequest& request) { return AnswerLacking(find, request); },
      kMaxDigestsPerRequest * kDigestBytes);
  router.Add(
      "PUT", "/v1/migrations/{migration}/chunks/{digest}",
      [find = std::move(find)](const HttpRequest& request) { return TakeChunk(find, request); }, kMaxChunkBodyBytes);
}

}  // namespace gpumig
