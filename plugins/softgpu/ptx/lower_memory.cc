// ld, st, atom and red.

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "plugins/softgpu/ptx/lowerer.h"
#include "plugins/softgpu/ptx/memory_operations.h"

namespace softgpu::ptx {
namespace {

// What changes neither the bytes nor, with one thread of execution, their order.
bool IsHint(std::string_view part) {
  static constexpr std::array<std::string_view, 18> kHints = {
      "weak", "volatile", "relaxed", "acquire", "release", "acq_rel", "mmio", "cta", "gpu",
      "sys",  "cluster",  "ca",      "cg",      "cs",      "lu",      "cv",   "wb",  "wt"};
  return std::ranges::find(kHints, part) != kHints.end() || part == "nc" || part == "unified" ||
         (part.find("::") != std::string_view::npos && SpaceNamed(part) == Space::kNone);
}

}  // namespace

bool Lowerer::ParseAccess(AccessSyntax* access) {
  for (std::size_t i = 1; i < parts_.size(); ++i) {
    const std::string_view part = parts_[i];
    if (SpaceNamed(part) != Space::kNone) {
      access->space = SpaceNamed(part);
    } else if (part == "v2" || part == "v4") {
      access->count = part == "v2" ? 2 : 4;
    } else if (TypeNamed(part) != ScalarType::kNone && TypeNamed(part) != ScalarType::kPred) {
      access->type = TypeNamed(part);
    } else if (!IsHint(part)) {
      if (!access->operation.empty())
        return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
      access->operation = part;
    }
  }
  if (access->type == ScalarType::kNone) return Fail(fmt::format("'{}' has no type", statement_->name.substr(0, 80)));
  return true;
}

bool Lowerer::EmitAccess(Handler handler, const Address& address, const std::uint32_t (&values)[4]) {
  if (handler == nullptr)
    return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
  Instruction& instruction = Emit(handler, {values[0], values[1], values[2], values[3], address.row});
  instruction.displacement = address.displacement;
  instruction.space = address.space;
  return true;
}

bool Lowerer::LowerLoad() {
  AccessSyntax access;
  Address address;
  if (!ExpectOperands(2, 3) || !ParseAccess(&access) || !AddressOf(operand(1), access.space, &address)) return false;
  if (!access.operation.empty())
    return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
  const OperandSyntax& target = operand(0);
  const bool is_vector = target.kind == OperandSyntax::Kind::kVector;
  if ((is_vector ? target.elements.size() : 1) != access.count)
    return Fail("the number of registers differs from that of the load");
  std::array<Destination, 4> destinations;
  std::uint32_t rows[4] = {kNoRow, kNoRow, kNoRow, kNoRow};
  for (std::size_t i = 0; i < access.count; ++i) {
    if (!PrepareDestination(is_vector ? target.elements[i] : target, access.type, true, &destinations[i])) return false;
    rows[i] = destinations[i].row;
  }
  const std::uint32_t bytes = BytesOf(access.type);
  const bool is_uniform = address.space == Space::kParam && address.row == kNoRow;
  if (!EmitAccess(is_uniform ? ParameterHandler(bytes, access.count) : LoadHandler(bytes, access.count), address, rows))
    return false;
  for (std::size_t i = 0; i < access.count; ++i) {
    if (!FinishDestination(destinations[i])) return false;
  }
  return true;
}

bool Lowerer::LowerStore() {
  AccessSyntax access;
  Address address;
  if (!ExpectOperands(2, 3) || !ParseAccess(&access) || !AddressOf(operand(0), access.space, &address)) return false;
  if (!access.operation.empty())
    return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
  if (address.space == Space::kConst || address.space == Space::kParam)
    return Fail("this state space cannot be written");
  const OperandSyntax& source = operand(1);
  const bool is_vector = source.kind == OperandSyntax::Kind::kVector;
  if ((is_vector ? source.elements.size() : 1) != access.count)
    return Fail("the number of registers differs from that of the store");
  std::uint32_t rows[4] = {kNoRow, kNoRow, kNoRow, kNoRow};
  for (std::size_t i = 0; i < access.count; ++i) {
    if (!Source(is_vector ? source.elements[i] : source, BytesOf(access.type), IsFloat(access.type), true, &rows[i]))
      return false;
  }
  return EmitAccess(StoreHandler(BytesOf(access.type), access.count), address, rows);
}

bool Lowerer::LowerAtomic() {
  AccessSyntax access;
  const std::size_t first = parts_[0] == "red" ? 0 : 1;  // red gives no result.
  Address address;
  if (!ExpectOperands(first + 2, first + 4) || !ParseAccess(&access) ||
      !AddressOf(operand(first), access.space, &address))
    return false;
  const std::string name = fmt::format("{}.{}", access.operation, parts_.back());
  const Handler handler = access.count == 1 ? AtomicHandler(name) : nullptr;
  if (handler == nullptr)
    return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
  if (address.space != Space::kGlobal && address.space != Space::kShared && address.space != Space::kGeneric) {
    return Fail("atomics need global or shared memory");
  }
  const bool swaps = access.operation == "cas";
  if (statement_->operands.size() < first + (swaps ? 3 : 2))
    return Fail(fmt::format("'{}' lacks an operand", statement_->name.substr(0, 80)));
  std::uint32_t rows[4] = {kNoRow, kNoRow, kNoRow, kNoRow};
  Destination destination;
  if (first == 1) {
    if (!PrepareDestination(operand(0), access.type, false, &destination)) return false;
    rows[0] = destination.row;
  }
  if (!SourceOf(first + 1, access.type, &rows[1])) return false;
  if (swaps && !SourceOf(first + 2, access.type, &rows[2])) return false;
  return EmitAccess(handler, address, rows);
}

}  // namespace softgpu::ptx
