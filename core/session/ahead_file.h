// AheadFile: chunks that were copied while a workload ran, kept in a file of this host until an image is made of them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <unordered_map>
#include <vector>

#include "core/base/result.h"
#include "core/base/unique_fd.h"
#include "core/host/memory_map.h"
#include "core/image/source_directory.h"
#include "core/session/live_copy.h"

namespace gpumig {

// Keeps at most a quarter more than the workload has, and leaves room where it is (and memory, where that is memory)
// for all that has to be copied at the standstill if none of this is of use. What does not fit is not kept, which is no
// error; LacksAhead() names it.
//
// Thread safety: as LiveCopy calls it; the readers that Serve() gives from any number of threads at once, once it has
// come to its end.
class AheadFile : public AheadShipper {
 public:
  // A file without a name in `directory`. `beside_bytes`: room to leave beside that for the workload's host memory.
  // Errors: those of open().
  static Result<AheadFile> Make(const std::filesystem::path& directory, std::uint64_t beside_bytes);

  Result<void> BeginAhead(std::uint64_t host_bytes, std::stop_token stop) override;
  Result<void> ShipAhead(std::span<const AheadChunk> chunks, std::stop_token stop) override;
  Result<std::vector<bool>> LacksAhead(std::span<const Digest> digests, std::stop_token stop) override;

  // Has `ahead` read from here, see LiveCopy::Finished, with zeros for what `map` does not place: that was written
  // again or given up before the standstill. Readers borrow this. Their errors: kDamaged, the file is not as it was
  // written.
  void Serve(std::vector<UnwrittenFile>& ahead, const MemoryMap& map) const;

  std::uint64_t bytes() const { return bytes_; }
  // For which there was no room.
  std::uint64_t dropped_bytes() const { return dropped_bytes_; }

 private:
  AheadFile(UniqueFd file, std::filesystem::path directory, std::uint64_t beside_bytes)
      : file_(std::move(file)), directory_(std::move(directory)), beside_bytes_(beside_bytes) {}
  Result<void> ReadPiece(const FilePiece& piece, std::span<std::byte> into) const;

  UniqueFd file_;
  std::filesystem::path directory_;
  std::uint64_t beside_bytes_ = 0;
  std::uint64_t most_bytes_ = 0;
  std::uint64_t bytes_ = 0;
  std::uint64_t dropped_bytes_ = 0;
  std::unordered_map<Digest, std::uint64_t> offsets_;
};

}  // namespace gpumig
