#include "device_state/gpu_map.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <set>
#include <string>

namespace gpumig {
namespace {

std::uint64_t NeededBytes(const GpuFacts& wanted) {
  return wanted.total_bytes > wanted.free_bytes ? wanted.total_bytes - wanted.free_bytes : 0;
}

std::string Listed(std::span<const GpuFacts> gpus) {
  std::string list;
  for (const GpuFacts& gpu : gpus) {
    list += fmt::format("{}{} ({}, {} free)", list.empty() ? "" : ", ", gpu.uuid, gpu.chip, Gibibytes(gpu.free_bytes));
  }
  return list.empty() ? "no GPU" : list;
}

const GpuFacts* Find(std::span<const GpuFacts> gpus, const std::string& uuid) {
  const auto found = std::ranges::find(gpus, uuid, &GpuFacts::uuid);
  return found == gpus.end() ? nullptr : &*found;
}

Result<void> CheckPair(const GpuFacts& wanted, const GpuFacts& have) {
  if (wanted.chip != have.chip) {
    return MakeError(ErrorCode::kUnsupported, "{} is a {}, but {} is a {}: GPU state moves between equal chips only",
                     wanted.uuid, wanted.chip, have.uuid, have.chip);
  }
  if (have.free_bytes < NeededBytes(wanted)) {
    return MakeError(ErrorCode::kResourceExhausted, "{} of {} must fit on {}, which has {} free",
                     Gibibytes(NeededBytes(wanted)), wanted.uuid, have.uuid, Gibibytes(have.free_bytes));
  }
  return Ok();
}

Result<std::vector<GpuPair>> AsAsked(std::span<const GpuFacts> wanted, std::span<const GpuFacts> have,
                                     std::span<const GpuPair> asked) {
  GPUMIG_TRY(CheckGpuMap(asked, have));
  for (const GpuPair& pair : asked) {
    if (Find(wanted, pair.old_uuid) != nullptr) continue;
    return MakeError(ErrorCode::kInvalidArgument, "GPU map names {}, which the job was not on; it was on {}",
                     pair.old_uuid, Listed(wanted));
  }
  std::vector<GpuPair> map;
  for (const GpuFacts& gpu : wanted) {
    const auto pair = std::ranges::find(asked, gpu.uuid, &GpuPair::old_uuid);
    if (pair == asked.end()) {
      return MakeError(ErrorCode::kInvalidArgument, "GPU map leaves out {}: the driver wants every GPU the job saw",
                       gpu.uuid);
    }
    GPUMIG_TRY(CheckPair(gpu, *Find(have, pair->new_uuid)), "GPU map");
    map.push_back({gpu.uuid, pair->new_uuid, "as asked"});
  }
  return map;
}

// Beyond what one host has; the search grows with the fourth power.
constexpr std::size_t kMostToExchange = 32;

using Pointers = std::vector<const GpuFacts*>;

// Those that need most, to those that have most free: where any assignment of these works, this one does. Ties go by
// UUID.
void SortByNeed(Pointers& wanted) {
  std::ranges::sort(wanted, [](const GpuFacts* a, const GpuFacts* b) {
    return NeededBytes(*a) != NeededBytes(*b) ? NeededBytes(*a) > NeededBytes(*b) : a->uuid < b->uuid;
  });
}
void SortByFree(Pointers& have) {
  std::ranges::sort(have, [](const GpuFacts* a, const GpuFacts* b) {
    return a->free_bytes != b->free_bytes ? a->free_bytes > b->free_bytes : a->uuid < b->uuid;
  });
}
// REQUIRES: both sorted; of one chip. Null: all fit. Else the first that does not.
const GpuFacts* FirstThatDoesNotFit(const Pointers& wanted, const Pointers& have) {
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (i >= have.size() || have[i]->free_bytes < NeededBytes(*wanted[i])) return wanted[i];
  }
  return nullptr;
}

void KeepEqualOnes(Pointers& wanted, Pointers& have, std::vector<GpuPair>& map) {
  for (const GpuFacts* gpu : Pointers(wanted)) {
    const auto same = std::ranges::find(have, gpu->uuid, &GpuFacts::uuid);
    if (same == have.end() || (*same)->free_bytes < NeededBytes(*gpu)) continue;
    Pointers wanted_left = wanted;
    Pointers have_left = have;
    std::erase(wanted_left, gpu);
    std::erase(have_left, *same);
    if (FirstThatDoesNotFit(wanted_left, have_left) != nullptr) continue;
    map.push_back({gpu->uuid, gpu->uuid, "the same GPU"});
    wanted = std::move(wanted_left);
    have = std::move(have_left);
  }
}

// How many pairs of neighbours (GPUs next to one NUMA node) of the job are torn apart by giving wanted[i] have[i].
int TornApart(const Pointers& wanted, const Pointers& have) {
  int torn = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      const bool were_close = wanted[i]->numa_node >= 0 && wanted[i]->numa_node == wanted[j]->numa_node;
      const bool are_known = have[i]->numa_node >= 0 && have[j]->numa_node >= 0;
      if (were_close && are_known && have[i]->numa_node != have[j]->numa_node) ++torn;
    }
  }
  return torn;
}

// Exchanges GPUs, also with ones that are left over, while that keeps more neighbours together and all fit. `have` may
// be longer than `wanted`. Ends: each round tears less apart.
void KeepNeighbours(const Pointers& wanted, Pointers& have) {
  if (have.size() > kMostToExchange) return;
  int torn = TornApart(wanted, have);
  for (bool better = torn > 0; better;) {
    better = false;
    for (std::size_t i = 0; i < wanted.size() && !better; ++i) {
      for (std::size_t j = i + 1; j < have.size() && !better; ++j) {
        std::swap(have[i], have[j]);
        const bool fits = have[i]->free_bytes >= NeededBytes(*wanted[i]) &&
                          (j >= wanted.size() || have[j]->free_bytes >= NeededBytes(*wanted[j]));
        const int now = fits ? TornApart(wanted, have) : torn;
        better = now < torn;
        if (better) {
          torn = now;
        } else {
          std::swap(have[i], have[j]);
        }
      }
    }
  }
}

// For a person: which neighbours are kept.
std::string NeighboursOf(std::size_t place, const Pointers& wanted, const Pointers& have) {
  std::string kept;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (i == place || wanted[i]->numa_node < 0 || wanted[i]->numa_node != wanted[place]->numa_node) continue;
    if (have[i]->numa_node == have[place]->numa_node) kept += (kept.empty() ? "" : ", ") + wanted[i]->uuid;
  }
  return kept.empty() ? "" : fmt::format(", on NUMA node {} with its neighbour {}", have[place]->numa_node, kept);
}

Result<void> SolveChip(const std::string& chip, Pointers wanted, Pointers have, std::vector<GpuPair>& map) {
  if (have.size() < wanted.size()) {
    return MakeError(ErrorCode::kUnsupported, "the job was on {} GPU(s) of type {}, and this host has {}",
                     wanted.size(), chip, have.size());
  }
  SortByNeed(wanted);
  SortByFree(have);
  if (const GpuFacts* gpu = FirstThatDoesNotFit(wanted, have)) {
    return MakeError(ErrorCode::kResourceExhausted, "{} of {} must fit on a {} of this host, and none has so much free",
                     Gibibytes(NeededBytes(*gpu)), gpu->uuid, chip);
  }
  KeepEqualOnes(wanted, have, map);
  KeepNeighbours(wanted, have);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    map.push_back({wanted[i]->uuid, have[i]->uuid,
                   fmt::format("a {} as well, with {} free of {} and {} wanted{}", chip, Gibibytes(have[i]->free_bytes),
                               Gibibytes(have[i]->total_bytes), Gibibytes(NeededBytes(*wanted[i])),
                               NeighboursOf(i, wanted, have))});
  }
  return Ok();
}

}  // namespace

std::string Gibibytes(std::uint64_t bytes) {
  return fmt::format("{:.2f} GiB", static_cast<double>(bytes) / static_cast<double>(1u << 30));
}

Result<void> CheckGpuMap(std::span<const GpuPair> map, std::span<const GpuFacts> have) {
  if (map.empty())
    return MakeError(ErrorCode::kInvalidArgument, "GPU map is empty: the driver wants every GPU the job saw");
  std::set<std::string> old_uuids;
  std::set<std::string> new_uuids;
  for (const GpuPair& pair : map) {
    if (Find(have, pair.new_uuid) == nullptr) {
      return MakeError(ErrorCode::kInvalidArgument, "GPU map names {}, which this host has not; it has {}",
                       pair.new_uuid, Listed(have));
    }
    if (!old_uuids.insert(pair.old_uuid).second || !new_uuids.insert(pair.new_uuid).second) {
      return MakeError(ErrorCode::kInvalidArgument, "GPU map names a GPU twice, in {}={}", pair.old_uuid,
                       pair.new_uuid);
    }
  }
  return Ok();
}

Result<std::vector<GpuPair>> SolveGpuMap(std::span<const GpuFacts> wanted, std::span<const GpuFacts> have,
                                         std::span<const GpuPair> asked) {
  std::set<std::string> uuids;
  for (const GpuFacts& gpu : wanted) {
    if (!uuids.insert(gpu.uuid).second)
      return MakeError(ErrorCode::kInvalidArgument, "GPU {} is wanted twice", gpu.uuid);
  }
  if (!asked.empty()) return AsAsked(wanted, have, asked);
  std::set<std::string> chips;
  for (const GpuFacts& gpu : wanted) chips.insert(gpu.chip);
  std::vector<GpuPair> unsorted;
  for (const std::string& chip : chips) {
    Pointers wanted_of_chip;
    Pointers have_of_chip;
    for (const GpuFacts& gpu : wanted) {
      if (gpu.chip == chip) wanted_of_chip.push_back(&gpu);
    }
    for (const GpuFacts& gpu : have) {
      if (gpu.chip == chip) have_of_chip.push_back(&gpu);
    }
    Result<void> solved = SolveChip(chip, wanted_of_chip, have_of_chip, unsorted);
    if (!solved) return std::move(solved).error().WithNextStep(fmt::format("this host has {}", Listed(have)));
  }
  std::vector<GpuPair> map;
  for (const GpuFacts& gpu : wanted) map.push_back(*std::ranges::find(unsorted, gpu.uuid, &GpuPair::old_uuid));
  return map;
}

}  // namespace gpumig
