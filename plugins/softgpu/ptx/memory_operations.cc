#include "plugins/softgpu/ptx/memory_operations.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>

#include "plugins/softgpu/ptx/memory_access.h"

namespace softgpu::ptx {
namespace {

constexpr std::size_t kRunLanes = AddressPattern::kRunLanes;

template <class U>
U LoadFrom(const std::byte* host) {
  U value;
  std::memcpy(&value, host, sizeof(U));
  return value;
}

template <class U, std::size_t kCount>
std::array<U*, kCount> ValueRows(Block& block, const Instruction& instruction) {
  std::array<U*, kCount> rows;
  for (std::size_t i = 0; i < kCount; ++i) rows[i] = block.Row<U>(instruction.rows[i]);
  return rows;
}

// Calls body(lane, host) for each lane until a fault.
template <class Body>
void ForEachResolved(Block& block, const Instruction& instruction, const Lanes& lanes, std::size_t bytes, bool write,
                     Body body) {
  const bool has_row = instruction.rows[kAddressRow] != kNoRow;
  const std::uint64_t* const addresses = has_row ? block.Row<std::uint64_t>(instruction.rows[kAddressRow]) : nullptr;
  const auto displacement = static_cast<std::uint64_t>(instruction.displacement);
  for (std::uint32_t i = 0; i < lanes.count; ++i) {
    const std::uint32_t lane = lanes.index == nullptr ? lanes.first + i : lanes.index[i];
    const std::uint64_t address = (has_row ? addresses[lane] : 0) + displacement;
    std::byte* const host = Resolve(block, instruction, lane, address, bytes, write);
    if (host == nullptr) return;
    body(lane, host);
  }
}

// Are all of the first `count` rows different ones? `ld.v2 {%r1, %r1}` is odd, but no error.
bool AreApart(const Instruction& instruction, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (instruction.rows[i] == instruction.rows[j]) return false;
    }
  }
  return true;
}

// Memory may hold anything, so its elements alias anything.
template <class U>
using InMemory [[gnu::may_alias]] = U;

// Of lanes one behind the other with kCount elements each: from memory, where a lane's elements lie together, to rows,
// where all first elements do, and back. Plain loops of constant strides, which become shuffles of vector registers.
template <class U, std::size_t kCount>
void Deal(const std::byte* host, const std::array<U*, kCount>& rows, std::size_t first, std::size_t count) {
  const auto* const from = reinterpret_cast<const InMemory<U>*>(host);
  if constexpr (kCount == 2) {
    U* const a = rows[0] + first;
    U* const b = rows[1] + first;
#pragma GCC ivdep
    for (std::size_t i = 0; i < count; ++i) {
      a[i] = from[2 * i];
      b[i] = from[2 * i + 1];
    }
  } else if constexpr (kCount == 4) {
    U* const a = rows[0] + first;
    U* const b = rows[1] + first;
    U* const c = rows[2] + first;
    U* const d = rows[3] + first;
#pragma GCC ivdep
    for (std::size_t i = 0; i < count; ++i) {
      a[i] = from[4 * i];
      b[i] = from[4 * i + 1];
      c[i] = from[4 * i + 2];
      d[i] = from[4 * i + 3];
    }
  }
}

template <class U, std::size_t kCount>
void Gather(std::byte* host, const std::array<U*, kCount>& rows, std::size_t first, std::size_t count) {
  auto* const to = reinterpret_cast<InMemory<U>*>(host);
  if constexpr (kCount == 2) {
    const U* const a = rows[0] + first;
    const U* const b = rows[1] + first;
#pragma GCC ivdep
    for (std::size_t i = 0; i < count; ++i) {
      to[2 * i] = a[i];
      to[2 * i + 1] = b[i];
    }
  } else if constexpr (kCount == 4) {
    const U* const a = rows[0] + first;
    const U* const b = rows[1] + first;
    const U* const c = rows[2] + first;
    const U* const d = rows[3] + first;
#pragma GCC ivdep
    for (std::size_t i = 0; i < count; ++i) {
      to[4 * i] = a[i];
      to[4 * i + 1] = b[i];
      to[4 * i + 2] = c[i];
      to[4 * i + 3] = d[i];
    }
  }
}

// Calls body(lane, host) for the first lane of each run, and for whether it is a whole one or which shorter length it
// has.
template <class Body>
void ForEachRun(const View& view, const std::uint64_t* addresses, std::uint64_t displacement, const Lanes& lanes,
                Body body) {
  const std::uint64_t base = view.base - displacement;
  std::size_t lane = lanes.first;
  for (; lane + kRunLanes <= lanes.end; lane += kRunLanes)
    body(lane, view.host + (addresses[lane] - base), std::integral_constant<std::size_t, kRunLanes>());
  if (lane < lanes.end) body(lane, view.host + (addresses[lane] - base), lanes.end - lane);
}

// Where the addresses follow a pattern. False: they do not.
template <class U>
bool LoadPattern(const View& view, const std::uint64_t* addresses, std::uint64_t displacement, const Lanes& lanes,
                 U* row) {
  if (view.shape == AddressPattern::Shape::kLine) {
    const std::byte* const host = view.host + (view.first - view.base);
    const std::uint64_t step = view.step;
    if (step == 0) {
      std::fill(row + lanes.first, row + lanes.end, LoadFrom<U>(host));
    } else if (step == sizeof(U)) {
      std::memcpy(row + lanes.first, host, lanes.count * sizeof(U));
    } else {
      for (std::size_t i = 0; i < lanes.count; ++i)
        row[lanes.first + i] = LoadFrom<U>(view.host + (view.first - view.base + i * step));
    }
    return true;
  }
  if (view.shape != AddressPattern::Shape::kRuns) return false;
  if (view.step == 0) {
    ForEachRun(view, addresses, displacement, lanes, [row](std::size_t lane, const std::byte* host, auto count) {
      std::fill_n(row + lane, std::size_t{count}, LoadFrom<U>(host));
    });
  } else if (view.step == sizeof(U)) {
    ForEachRun(view, addresses, displacement, lanes, [row](std::size_t lane, const std::byte* host, auto count) {
      std::memcpy(row + lane, host, count * sizeof(U));
    });
  } else {
    return false;
  }
  return true;
}

template <class U, std::size_t kCount>
void Load(Block& block, const Instruction& instruction, const Lanes& lanes) {
  constexpr std::size_t kBytes = sizeof(U) * kCount;
  const auto rows = ValueRows<U, kCount>(block, instruction);
  View view;
  if (!FindView(block, instruction, lanes, kBytes, false, &view)) {
    ForEachResolved(block, instruction, lanes, kBytes, false, [&](std::uint32_t lane, const std::byte* host) {
      for (std::size_t i = 0; i < kCount; ++i) rows[i][lane] = LoadFrom<U>(host + i * sizeof(U));
    });
    return;
  }
  const std::uint64_t* const addresses = block.Row<std::uint64_t>(instruction.rows[kAddressRow]);
  const auto displacement = static_cast<std::uint64_t>(instruction.displacement);
  if (kCount == 1 && LoadPattern(view, addresses, displacement, lanes, rows[0])) return;
  if (kCount > 1 && view.IsLineOf(kBytes) && AreApart(instruction, kCount)) {
    Deal<U, kCount>(view.host, rows, lanes.first, lanes.count);
    return;
  }
  const std::byte* const origin = view.host;
  const std::uint64_t base = view.base - displacement;
  ForEachLane(lanes, [=](std::size_t lane) {
    const std::byte* const host = origin + (addresses[lane] - base);
    for (std::size_t i = 0; i < kCount; ++i) rows[i][lane] = LoadFrom<U>(host + i * sizeof(U));
  });
}

// As LoadPattern(). In order: of lanes that write to one place, the last wins.
template <class U>
bool StorePattern(const View& view, const std::uint64_t* addresses, std::uint64_t displacement, const Lanes& lanes,
                  const U* row) {
  if (view.shape == AddressPattern::Shape::kLine) {
    const std::uint64_t step = view.step;
    if (step == 0) {
      std::memcpy(view.host, row + lanes.end - 1, sizeof(U));
    } else if (step == sizeof(U)) {
      std::memcpy(view.host, row + lanes.first, lanes.count * sizeof(U));
    } else {
      for (std::size_t i = 0; i < lanes.count; ++i)
        std::memcpy(view.host + (view.first - view.base + i * step), row + lanes.first + i, sizeof(U));
    }
    return true;
  }
  if (view.shape != AddressPattern::Shape::kRuns || view.step != sizeof(U)) return false;
  ForEachRun(view, addresses, displacement, lanes, [row](std::size_t lane, std::byte* host, auto count) {
    std::memcpy(host, row + lane, count * sizeof(U));
  });
  return true;
}

template <class U, std::size_t kCount>
void Store(Block& block, const Instruction& instruction, const Lanes& lanes) {
  constexpr std::size_t kBytes = sizeof(U) * kCount;
  const auto rows = ValueRows<U, kCount>(block, instruction);
  View view;
  if (!FindView(block, instruction, lanes, kBytes, true, &view)) {
    ForEachResolved(block, instruction, lanes, kBytes, true, [&](std::uint32_t lane, std::byte* host) {
      for (std::size_t i = 0; i < kCount; ++i) std::memcpy(host + i * sizeof(U), rows[i] + lane, sizeof(U));
    });
    return;
  }
  const std::uint64_t* const addresses = block.Row<std::uint64_t>(instruction.rows[kAddressRow]);
  const auto displacement = static_cast<std::uint64_t>(instruction.displacement);
  if (kCount == 1 && StorePattern(view, addresses, displacement, lanes, rows[0])) return;
  if (kCount > 1 && view.IsLineOf(kBytes)) {
    Gather<U, kCount>(view.host, rows, lanes.first, lanes.count);
    return;
  }
  // In order, as above.
  const std::uint64_t base = view.base - displacement;
  for (std::uint32_t i = 0; i < lanes.count; ++i) {
    const std::uint32_t lane = lanes.index == nullptr ? lanes.first + i : lanes.index[i];
    std::byte* const host = view.host + (addresses[lane] - base);
    for (std::size_t k = 0; k < kCount; ++k) std::memcpy(host + k * sizeof(U), rows[k] + lane, sizeof(U));
  }
}

template <class U, std::size_t kCount>
void LoadParameter(Block& block, const Instruction& instruction, const Lanes& lanes) {
  const auto rows = ValueRows<U, kCount>(block, instruction);
  const auto address = static_cast<std::uint64_t>(instruction.displacement);
  const std::byte* const host = Resolve(block, instruction, lanes.index == nullptr ? lanes.first : lanes.index[0],
                                        address, sizeof(U) * kCount, false);
  if (host == nullptr) return;
  for (std::size_t i = 0; i < kCount; ++i) {
    const U value = LoadFrom<U>(host + i * sizeof(U));
    ForEachLane(lanes, [row = rows[i], value](std::size_t lane) { row[lane] = value; });
  }
}

// Kernels of other streams may use the same memory, so these are atomic for the host too.
template <class U, auto F>
void Atomic(Block& block, const Instruction& instruction, const Lanes& lanes) {
  U* const before = instruction.rows[0] == kNoRow ? nullptr : block.Row<U>(instruction.rows[0]);
  const U* const b = block.Row<U>(instruction.rows[1]);
  const U* const c = block.Row<U>(instruction.rows[2] == kNoRow ? instruction.rows[1] : instruction.rows[2]);
  ForEachResolved(block, instruction, lanes, sizeof(U), true, [&](std::uint32_t lane, std::byte* host) {
    U* const place = reinterpret_cast<U*>(host);
    U old = __atomic_load_n(place, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(place, &old, static_cast<U>(F(old, b[lane], c[lane])), false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_RELAXED)) {
    }
    if (before != nullptr) before[lane] = old;
  });
}

using U16 = std::uint16_t;
using U32 = std::uint32_t;
using U64 = std::uint64_t;

template <template <class, std::size_t> class Access, std::size_t kCount>
Handler ForBytes(std::uint32_t bytes) {
  switch (bytes) {
    case 1:
      return Access<std::uint8_t, kCount>::handler;
    case 2:
      return Access<U16, kCount>::handler;
    case 4:
      return Access<U32, kCount>::handler;
    case 8:
      return kCount * 8 <= 16 ? Access<U64, kCount>::handler : nullptr;
    default:
      return nullptr;
  }
}

template <template <class, std::size_t> class Access>
Handler ForCount(std::uint32_t bytes, std::uint32_t count) {
  if (count == 1) return ForBytes<Access, 1>(bytes);
  if (count == 2) return ForBytes<Access, 2>(bytes);
  return count == 4 ? ForBytes<Access, 4>(bytes) : nullptr;
}

template <class U, std::size_t kCount>
struct LoadAccess {
  static constexpr Handler handler = &Load<U, kCount>;
};
template <class U, std::size_t kCount>
struct StoreAccess {
  static constexpr Handler handler = &Store<U, kCount>;
};
template <class U, std::size_t kCount>
struct ParameterAccess {
  static constexpr Handler handler = &LoadParameter<U, kCount>;
};

template <class U>
Handler BitAtomic(std::string_view name) {
  if (name == "and") return &Atomic<U, [](U a, U b, U) { return a & b; }>;
  if (name == "or") return &Atomic<U, [](U a, U b, U) { return a | b; }>;
  if (name == "xor") return &Atomic<U, [](U a, U b, U) { return a ^ b; }>;
  if (name == "exch") return &Atomic<U, [](U, U b, U) { return b; }>;
  if (name == "cas") return &Atomic<U, [](U a, U b, U c) { return a == b ? c : a; }>;
  return nullptr;
}

template <class U, class T>
Handler OrderAtomic(std::string_view name) {
  if (name == "add") return &Atomic<U, [](U a, U b, U) { return a + b; }>;
  if (name == "min") return &Atomic<U, [](U a, U b, U) { return static_cast<T>(b) < static_cast<T>(a) ? b : a; }>;
  if (name == "max") return &Atomic<U, [](U a, U b, U) { return static_cast<T>(a) < static_cast<T>(b) ? b : a; }>;
  return nullptr;
}

U32 AddFloatBits(U32 a, U32 b) {
  const float sum = std::bit_cast<float>(a) + std::bit_cast<float>(b);
  return sum != sum ? 0x7FFFFFFFu : std::bit_cast<U32>(sum);
}

}  // namespace

Handler LoadHandler(std::uint32_t bytes, std::uint32_t count) { return ForCount<LoadAccess>(bytes, count); }
Handler StoreHandler(std::uint32_t bytes, std::uint32_t count) { return ForCount<StoreAccess>(bytes, count); }
Handler ParameterHandler(std::uint32_t bytes, std::uint32_t count) { return ForCount<ParameterAccess>(bytes, count); }

Handler AtomicHandler(std::string_view operation) {
  const std::string_view name = operation.substr(0, operation.find('.'));
  const std::string_view type = operation.substr(std::min(operation.size(), name.size() + 1));
  if (type == "b32") return BitAtomic<U32>(name);
  if (type == "b64") return BitAtomic<U64>(name);
  if (operation == "exch.b16" || operation == "cas.b16") return BitAtomic<U16>(name);
  // Source: PTX ISA 8.5, atom: inc wraps to 0 at b, dec wraps to b at 0.
  if (operation == "inc.u32") return &Atomic<U32, [](U32 a, U32 b, U32) { return a >= b ? 0 : a + 1; }>;
  if (operation == "dec.u32") return &Atomic<U32, [](U32 a, U32 b, U32) { return (a == 0 || (a > b)) ? b : a - 1; }>;
  if (operation == "add.f32") return &Atomic<U32, [](U32 a, U32 b, U32) { return AddFloatBits(a, b); }>;
  if (operation == "add.f64") {
    return &Atomic<U64, [](U64 a, U64 b, U64) {
      return std::bit_cast<U64>(std::bit_cast<double>(a) + std::bit_cast<double>(b));
    }>;
  }
  if (type == "u32") return OrderAtomic<U32, U32>(name);
  if (type == "s32") return OrderAtomic<U32, std::int32_t>(name);
  if (type == "u64") return OrderAtomic<U64, U64>(name);
  if (type == "s64") return OrderAtomic<U64, std::int64_t>(name);
  return nullptr;
}

}  // namespace softgpu::ptx
