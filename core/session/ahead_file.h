// AheadFile: chunks that were copied while a workload ran, kept in a file of this host until an image is made of them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <unordered_map>
#include <vector>

#include "core/base/result.h"
#include "core/base/unique_fd.h"
#include "core/image/source_directory.h"
#include "core/session/live_copy.h"

namespace gpumig {

// Room is left in the directory for as much again as one round may copy: what a workload has written since is copied
// there, too. Chunks beyond that are not kept, which is no error; LacksAhead() names them.
//
// Thread safety: as LiveCopy calls it; the readers that Serve() gives from any number of threads at once, once it has
// come to its end.
class AheadFile : public AheadShipper {
 public:
  // Errors: those of open(), for a new file in `directory`. Who removes that removes the file.
  static Result<AheadFile> Make(const std::filesystem::path& directory);

  Result<void> BeginAhead(std::uint64_t host_bytes, std::stop_token stop) override;
  Result<void> ShipAhead(std::span<const AheadChunk> chunks, std::stop_token stop) override;
  Result<std::vector<bool>> LacksAhead(std::span<const Digest> digests, std::stop_token stop) override;

  // Has `ahead` read from here, see LiveCopy::Finished. They borrow this.
  void Serve(std::vector<UnwrittenFile>& ahead) const;

  std::uint64_t bytes() const { return bytes_; }

 private:
  AheadFile(UniqueFd file, std::filesystem::path directory)
      : file_(std::move(file)), directory_(std::move(directory)) {}
  Result<void> ReadPiece(const FilePiece& piece, std::span<std::byte> into) const;

  UniqueFd file_;
  std::filesystem::path directory_;
  std::uint64_t most_bytes_ = 0;
  std::uint64_t bytes_ = 0;
  std::unordered_map<Digest, std::uint64_t> offsets_;
};

}  // namespace gpumig
