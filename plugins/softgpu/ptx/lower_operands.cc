// Operands: names, numbers and addresses become rows.

#include <fmt/format.h>

#include <array>
#include <bit>

#include "plugins/softgpu/ptx/lowerer.h"

namespace softgpu::ptx {
namespace {

struct NamedSpecial {
  std::string_view name;
  SpecialRegister special;
};

// The clocks and the device's own numbers read as 0: nothing may depend on them.
constexpr std::array kSpecials = {
    NamedSpecial{"%tid.x", SpecialRegister::kTidX},
    NamedSpecial{"%tid.y", SpecialRegister::kTidY},
    NamedSpecial{"%tid.z", SpecialRegister::kTidZ},
    NamedSpecial{"%ntid.x", SpecialRegister::kNtidX},
    NamedSpecial{"%ntid.y", SpecialRegister::kNtidY},
    NamedSpecial{"%ntid.z", SpecialRegister::kNtidZ},
    NamedSpecial{"%ctaid.x", SpecialRegister::kCtaidX},
    NamedSpecial{"%ctaid.y", SpecialRegister::kCtaidY},
    NamedSpecial{"%ctaid.z", SpecialRegister::kCtaidZ},
    NamedSpecial{"%nctaid.x", SpecialRegister::kNctaidX},
    NamedSpecial{"%nctaid.y", SpecialRegister::kNctaidY},
    NamedSpecial{"%nctaid.z", SpecialRegister::kNctaidZ},
    NamedSpecial{"%laneid", SpecialRegister::kLaneid},
    NamedSpecial{"%warpid", SpecialRegister::kWarpid},
    NamedSpecial{"%nwarpid", SpecialRegister::kNwarpid},
    NamedSpecial{"%lanemask_eq", SpecialRegister::kLanemaskEq},
    NamedSpecial{"%lanemask_le", SpecialRegister::kLanemaskLe},
    NamedSpecial{"%lanemask_lt", SpecialRegister::kLanemaskLt},
    NamedSpecial{"%lanemask_ge", SpecialRegister::kLanemaskGe},
    NamedSpecial{"%lanemask_gt", SpecialRegister::kLanemaskGt},
    NamedSpecial{"%dynamic_smem_size", SpecialRegister::kDynamicSmemSize},
    NamedSpecial{"%total_smem_size", SpecialRegister::kTotalSmemSize},
    NamedSpecial{"%smid", SpecialRegister::kZero32},
    NamedSpecial{"%gridid", SpecialRegister::kZero64},
    NamedSpecial{"%clock", SpecialRegister::kZero32},
    NamedSpecial{"%clock_hi", SpecialRegister::kZero32},
    NamedSpecial{"%clock64", SpecialRegister::kZero64},
    NamedSpecial{"%globaltimer", SpecialRegister::kZero64},
    NamedSpecial{"%globaltimer_lo", SpecialRegister::kZero32},
    NamedSpecial{"%globaltimer_hi", SpecialRegister::kZero32},
};

}  // namespace

Instruction& Lowerer::Emit(Handler handler, std::initializer_list<std::uint32_t> rows) {
  Instruction& instruction = program_.instructions.emplace_back();
  instruction.handler = handler;
  std::size_t i = 0;
  for (const std::uint32_t row : rows) instruction.rows[i++] = row;
  instruction.guard = guard_;
  instruction.guard_negated = guard_ != kNoRow && statement_->guard_negated;
  instruction.line = statement_->line;
  return instruction;
}

bool Lowerer::EmitNamed(std::string_view name, std::initializer_list<std::uint32_t> rows) {
  const Operation* operation = operations_.Find(name);
  if (operation == nullptr)
    return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
  Emit(operation->handler, rows);
  return true;
}

bool Lowerer::ExpectOperands(std::size_t low, std::size_t high) {
  const std::size_t count = statement_->operands.size();
  if (count >= low && count <= high) return true;
  return Fail(fmt::format("'{}' has {} operands", statement_->name.substr(0, 80), count));
}

bool Lowerer::SourceOf(std::size_t index, ScalarType type, std::uint32_t* row, bool may_be_wider) {
  return Source(operand(index), BytesOf(type), IsFloat(type), may_be_wider, row);
}

bool Lowerer::Source(const OperandSyntax& source, std::uint32_t bytes, bool is_float, bool may_be_wider,
                     std::uint32_t* row) {
  switch (source.kind) {
    case OperandSyntax::Kind::kInteger:
    case OperandSyntax::Kind::kFloat32:
    case OperandSyntax::Kind::kFloat64:
      return Immediate(source, bytes, is_float, row);
    case OperandSyntax::Kind::kName:
      break;
    default:
      return Fail("this operand should be a register or a number");
  }
  if (!NameSource(source, bytes, may_be_wider, row)) return false;
  if (!source.negated) return true;
  if (bytes != 1) return Fail("only a predicate can be negated with '!'");
  const std::uint32_t inverse = rows_.Temporary(1);
  if (!EmitNamed("not.pred", {inverse, *row})) return false;
  *row = inverse;
  return true;
}

bool Lowerer::Immediate(const OperandSyntax& source, std::uint32_t bytes, bool is_float, std::uint32_t* row) {
  std::uint64_t bits = source.bits;
  if (source.kind == OperandSyntax::Kind::kFloat64 && bytes == 4) {
    bits = std::bit_cast<std::uint32_t>(static_cast<float>(std::bit_cast<double>(bits)));
  } else if (source.kind == OperandSyntax::Kind::kFloat32 && bytes == 8 && is_float) {
    bits = std::bit_cast<std::uint64_t>(static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(bits))));
  } else if (source.kind == OperandSyntax::Kind::kInteger && is_float && bytes >= 4) {
    return Fail("this operand should be a float");
  } else if (source.kind != OperandSyntax::Kind::kInteger && bytes < 4) {
    return Fail("this operand should be an integer");
  }
  if (bytes == 1 && source.kind == OperandSyntax::Kind::kInteger && statement_->name.ends_with(".pred"))
    bits = bits != 0;
  *row = rows_.Value(bytes, bits);
  return true;
}

bool Lowerer::SpecialSource(std::string_view name, std::uint32_t* row, std::uint32_t* bytes) {
  if (name == "WARP_SZ") {
    *row = rows_.Value(4, 32);
    *bytes = 4;
    return true;
  }
  for (const NamedSpecial& known : kSpecials) {
    if (known.name != name) continue;
    *row = rows_.Special(known.special);
    *bytes = known.special == SpecialRegister::kZero64 ? 8 : 4;
    return true;
  }
  return false;
}

bool Lowerer::NameSource(const OperandSyntax& source, std::uint32_t bytes, bool may_be_wider, std::uint32_t* row) {
  std::uint32_t special_bytes = 0;
  if (SpecialSource(source.name, row, &special_bytes)) {
    if (bytes == 1 && !may_be_wider) return Fail(fmt::format("register '{}' is of the wrong kind", source.name));
    return Resize(*row, special_bytes, bytes, row);
  }
  Symbol symbol;
  if (!Lookup(source.name, &symbol)) return false;
  if (symbol.kind != Symbol::Kind::kRegister)
    return SymbolAddress(symbol, static_cast<std::uint64_t>(source.offset), bytes, row);
  if (source.offset != 0) return Fail("an offset can only be added to an address");
  const std::uint32_t held = BytesOf(symbol.type);
  // Among the operands of one byte, only those of loads, stores and conversions are numbers.
  if (bytes == 1 && (symbol.type == ScalarType::kPred) == may_be_wider)
    return Fail(fmt::format("register '{}' is of the wrong kind", source.name));
  if (held != bytes && (!may_be_wider || held < bytes)) {
    return Fail(fmt::format("register '{}' has {} bytes where '{}' needs {}", source.name, held,
                            statement_->name.substr(0, 80), bytes));
  }
  return Resize(symbol.row, held, bytes, row);
}

bool Lowerer::SymbolAddress(const Symbol& symbol, std::uint64_t addend, std::uint32_t bytes, std::uint32_t* row) {
  if (bytes != 8 && (bytes != 4 || symbol.kind == Symbol::Kind::kGlobal))
    return Fail("an address needs a register of 64 bits");
  switch (symbol.kind) {
    case Symbol::Kind::kGlobal:
      *row = rows_.GlobalAddress(symbol.global, addend);
      return true;
    case Symbol::Kind::kDynamicShared:
      return Resize(rows_.DynamicShared(addend), 8, bytes, row);
    default:
      *row = rows_.Value(bytes, symbol.offset + addend);
      return true;
  }
}

// Widening fills with zeroes.
bool Lowerer::Resize(std::uint32_t row, std::uint32_t from, std::uint32_t to, std::uint32_t* resized) {
  *resized = row;
  if (from == to) return true;
  *resized = rows_.Temporary(to);
  return EmitNamed(from < to ? fmt::format("extend.u.{}.{}", to, from) : fmt::format("truncate.{}.{}", from, to),
                   {*resized, row});
}

bool Lowerer::PrepareDestination(const OperandSyntax& target, ScalarType type, bool may_be_wider,
                                 Destination* destination) {
  const std::uint32_t bytes = BytesOf(type);
  *destination = Destination{.bytes = bytes, .is_signed = IsSigned(type)};
  if (target.kind != OperandSyntax::Kind::kName || target.negated) return Fail("the destination should be a register");
  if (target.name == "_") {
    destination->row = rows_.Temporary(bytes);
    return true;
  }
  Symbol symbol;
  if (!Lookup(target.name, &symbol)) return false;
  const std::uint32_t held = BytesOf(symbol.type);
  if (symbol.kind != Symbol::Kind::kRegister) return Fail(fmt::format("'{}' is not a register", target.name));
  if (held != bytes && (!may_be_wider || held < bytes)) {
    return Fail(fmt::format("register '{}' has {} bytes where '{}' gives {}", target.name, held,
                            statement_->name.substr(0, 80), bytes));
  }
  if ((symbol.type == ScalarType::kPred) != (type == ScalarType::kPred) && !(may_be_wider && held != bytes)) {
    return Fail(fmt::format("register '{}' is of the wrong kind", target.name));
  }
  destination->row = symbol.row;
  if (held == bytes) return true;
  destination->row = rows_.Temporary(bytes);
  destination->final_row = symbol.row;
  destination->final_bytes = held;
  return true;
}

bool Lowerer::FinishDestination(const Destination& destination) {
  if (destination.final_row == kNoRow) return true;
  return EmitNamed(
      fmt::format("extend.{}.{}.{}", destination.is_signed ? 's' : 'u', destination.final_bytes, destination.bytes),
      {destination.final_row, destination.row});
}

bool Lowerer::Flush(std::uint32_t* row) {
  const std::uint32_t flushed = rows_.Temporary(4);
  if (!EmitNamed("flush.f32", {flushed, *row})) return false;
  *row = flushed;
  return true;
}

bool Lowerer::AddressOf(const OperandSyntax& source, Space requested, Address* address) {
  if (source.kind != OperandSyntax::Kind::kAddress) return Fail("this operand should be an address in brackets");
  *address = Address{requested, kNoRow, source.offset};
  if (source.name.empty()) {
    if (requested == Space::kParam || requested == Space::kLocal) return true;
    address->row = rows_.Value(8, static_cast<std::uint64_t>(source.offset));
    address->displacement = 0;
    return true;
  }
  Symbol symbol;
  if (!Lookup(source.name, &symbol)) return false;
  if (symbol.kind == Symbol::Kind::kRegister) {
    const std::uint32_t bytes = BytesOf(symbol.type);
    if (bytes != 8 && bytes != 4) return Fail(fmt::format("register '{}' cannot hold an address", source.name));
    return Resize(symbol.row, bytes, 8, &address->row);
  }
  // The .param variables of a call are local memory.
  const bool fits = requested == Space::kGeneric || requested == symbol.space ||
                    (requested == Space::kParam && symbol.space == Space::kLocal) ||
                    (requested == Space::kGlobal && symbol.space == Space::kConst);
  if (!fits) return Fail(fmt::format("'{}' is in another state space", source.name));
  address->space = symbol.space;
  if (symbol.kind == Symbol::Kind::kVariable && symbol.space != Space::kShared) {
    address->displacement = static_cast<std::int64_t>(symbol.offset + static_cast<std::uint64_t>(source.offset));
    return true;
  }
  address->displacement = 0;
  return SymbolAddress(symbol, static_cast<std::uint64_t>(source.offset), 8, &address->row);
}

}  // namespace softgpu::ptx
