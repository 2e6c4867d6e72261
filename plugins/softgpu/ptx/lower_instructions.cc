// What is not control flow and not memory access.

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "plugins/softgpu/ptx/launch.h"
#include "plugins/softgpu/ptx/lowerer.h"

namespace softgpu::ptx {
namespace {

bool Contains(const std::vector<std::string_view>& parts, std::string_view part) {
  return std::ranges::find(parts, part) != parts.end();
}

}  // namespace

const std::unordered_map<std::string_view, Lowerer::Method>& Lowerer::Methods() {
  static const std::unordered_map<std::string_view, Method> methods = {
      {"bra", &Lowerer::LowerBranch},
      {"brx", &Lowerer::LowerIndexedBranch},
      {"call", &Lowerer::LowerCall},
      {"ret", &Lowerer::LowerReturn},
      {"exit", &Lowerer::LowerExit},
      {"trap", &Lowerer::LowerTrap},
      {"brkpt", &Lowerer::LowerTrap},
      {"ld", &Lowerer::LowerLoad},
      {"ldu", &Lowerer::LowerLoad},
      {"st", &Lowerer::LowerStore},
      {"atom", &Lowerer::LowerAtomic},
      {"red", &Lowerer::LowerAtomic},
      {"mov", &Lowerer::LowerMove},
      {"cvt", &Lowerer::LowerConvert},
      {"cvta", &Lowerer::LowerConvertAddress},
      {"isspacep", &Lowerer::LowerIsSpace},
      {"setp", &Lowerer::LowerSetPredicate},
      {"set", &Lowerer::LowerSet},
      {"selp", &Lowerer::LowerSelect},
      {"slct", &Lowerer::LowerSelectBySign},
      {"add", &Lowerer::LowerAddOrSubtract},
      {"addc", &Lowerer::LowerAddOrSubtract},
      {"sub", &Lowerer::LowerAddOrSubtract},
      {"subc", &Lowerer::LowerAddOrSubtract},
      {"mad", &Lowerer::LowerMultiplyAdd},
      {"madc", &Lowerer::LowerMultiplyAdd},
      {"shfl", &Lowerer::LowerShuffle},
      {"vote", &Lowerer::LowerVote},
      {"match", &Lowerer::LowerMatch},
      {"redux", &Lowerer::LowerReduce},
      {"activemask", &Lowerer::LowerActiveMask},
      {"bar", &Lowerer::LowerBarrier},
      {"barrier", &Lowerer::LowerBarrier},
      {"membar", &Lowerer::LowerNothing},
      {"fence", &Lowerer::LowerNothing},
      {"nanosleep", &Lowerer::LowerNothing},
      {"prefetch", &Lowerer::LowerNothing},
      {"prefetchu", &Lowerer::LowerNothing},
      {"pmevent", &Lowerer::LowerNothing},
  };
  return methods;
}

// An instruction of the table. The rows' sizes are those of the operands.
bool Lowerer::LowerGeneric() {
  const ScalarType type = TypeNamed(parts_.back());
  const bool flush = Contains(parts_, "ftz") && Contains(parts_, "f32");
  const bool saturate = Contains(parts_, "sat") && (type == ScalarType::kF32 || type == ScalarType::kF64);
  std::string name;
  for (const std::string_view part : parts_) {
    if (part == "rn" || part == "ftz" || (saturate && part == "sat")) continue;
    if (!name.empty()) name += '.';
    name += part;
  }
  const Operation* operation = operations_.Find(name);
  const bool is_internal = name.starts_with("move.") || name.starts_with("extend.") || name.starts_with("pack.") ||
                           name.starts_with("unpack.") || name.starts_with("truncate.") || name.starts_with("carry.") ||
                           name.starts_with("flush.") || name.starts_with("saturate.") || name.starts_with("select.");
  if (operation == nullptr || is_internal)
    return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
  if (saturate && operation->bytes[0] != BytesOf(type)) return Fail("this instruction gives nothing to saturate");
  if (!ExpectOperands(operation->row_count, operation->row_count)) return false;
  std::array<std::uint32_t, kMaxRows> rows;
  rows.fill(kNoRow);
  for (std::size_t i = 1; i < operation->row_count; ++i) {
    // Of the rows of another size than the type, those of the bit counts, none is a float.
    const bool is_float = IsFloat(type) && operation->bytes[i] == BytesOf(type);
    if (!Source(operand(i), operation->bytes[i], is_float, false, &rows[i])) return false;
    if (flush && operation->bytes[i] == 4 && !Flush(&rows[i])) return false;
  }
  static constexpr std::array<ScalarType, 9> kBySize = {ScalarType::kNone, ScalarType::kPred, ScalarType::kB16,
                                                        ScalarType::kNone, ScalarType::kB32,  ScalarType::kNone,
                                                        ScalarType::kNone, ScalarType::kNone, ScalarType::kB64};
  Destination destination;
  if (!PrepareDestination(operand(0), kBySize[operation->bytes[0]], false, &destination)) return false;
  rows[0] = destination.row;
  Emit(operation->handler, {}).rows = rows;
  if (flush && operation->bytes[0] == 4 && !EmitNamed("flush.f32", {rows[0], rows[0]})) return false;
  return !saturate || EmitNamed(fmt::format("saturate.{}", parts_.back()), {rows[0], rows[0]});
}

bool Lowerer::LowerMove() {
  const ScalarType type = TypeNamed(parts_.back());
  if (parts_.size() != 2 || type == ScalarType::kNone || !ExpectOperands(2, 2))
    return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
  if (operand(0).kind == OperandSyntax::Kind::kVector) return LowerUnpack(operand(0), type);
  if (operand(1).kind == OperandSyntax::Kind::kVector) return LowerPack(operand(1), type);
  Destination destination;
  std::uint32_t source = kNoRow;
  if (!SourceOf(1, type, &source) || !PrepareDestination(operand(0), type, false, &destination)) return false;
  return EmitNamed(fmt::format("move.{}", BytesOf(type)), {destination.row, source});
}

bool Lowerer::LowerPack(const OperandSyntax& parts, ScalarType type) {
  const std::uint32_t bytes = BytesOf(type);
  const auto count = static_cast<std::uint32_t>(parts.elements.size());
  if ((count != 2 && count != 4) || bytes / count * count != bytes) return Fail("the vector does not fit the register");
  const std::uint32_t part_bytes = bytes / count;
  const std::string suffix = fmt::format(".{}.{}", bytes, part_bytes);
  Destination destination;
  std::uint32_t value = rows_.Temporary(bytes);
  std::uint32_t part = kNoRow;
  if (!PrepareDestination(operand(0), type, false, &destination)) return false;
  if (!Source(parts.elements[0], part_bytes, false, false, &part) || !EmitNamed("extend.u" + suffix, {value, part}))
    return false;
  for (std::uint32_t i = 1; i < count; ++i) {
    const std::uint32_t target = i + 1 == count ? destination.row : value;
    if (!Source(parts.elements[i], part_bytes, false, false, &part)) return false;
    if (!EmitNamed("pack" + suffix, {target, value, part, rows_.Value(4, i)})) return false;
  }
  return true;
}

bool Lowerer::LowerUnpack(const OperandSyntax& parts, ScalarType type) {
  const std::uint32_t bytes = BytesOf(type);
  const auto count = static_cast<std::uint32_t>(parts.elements.size());
  if ((count != 2 && count != 4) || bytes / count * count != bytes) return Fail("the vector does not fit the register");
  const std::uint32_t part_bytes = bytes / count;
  const ScalarType part_type = part_bytes == 4   ? ScalarType::kB32
                               : part_bytes == 2 ? ScalarType::kB16
                                                 : ScalarType::kB8;
  std::uint32_t source = kNoRow;
  if (!SourceOf(1, type, &source)) return false;
  for (std::uint32_t i = 0; i < count; ++i) {
    Destination destination;
    if (!PrepareDestination(parts.elements[i], part_type, false, &destination)) return false;
    if (!EmitNamed(fmt::format("unpack.{}.{}", bytes, part_bytes), {destination.row, source, rows_.Value(4, i)}))
      return false;
  }
  return true;
}

bool Lowerer::LowerConvert() {
  const std::size_t count = parts_.size();
  const ScalarType from = TypeNamed(parts_[count - 1]);
  const ScalarType to = count > 2 ? TypeNamed(parts_[count - 2]) : ScalarType::kNone;
  const bool is_pair = to == ScalarType::kF16x2 || to == ScalarType::kBf16x2;
  if (from == ScalarType::kNone || to == ScalarType::kNone || !ExpectOperands(is_pair ? 3 : 2, is_pair ? 3 : 2)) {
    return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
  }
  bool flush = false;
  bool saturate = false;
  std::string name = "cvt";
  for (std::size_t i = 1; i < count; ++i) {
    if (parts_[i] == "ftz") {
      flush = true;
    } else if (parts_[i] == "sat" && (IsFloat(to) || IsFloat(from))) {
      saturate = IsFloat(to);  // To integers it always is.
    } else {
      name += '.';
      name += parts_[i];
    }
  }
  Destination destination;
  std::uint32_t a = kNoRow;
  std::uint32_t b = kNoRow;
  if (!SourceOf(1, from, &a, true) || (is_pair && !SourceOf(2, from, &b, true))) return false;
  if (flush && from == ScalarType::kF32 && !Flush(&a)) return false;
  if (flush && is_pair && !Flush(&b)) return false;
  if (!PrepareDestination(operand(0), to, true, &destination) || !EmitNamed(name, {destination.row, a, b}))
    return false;
  if (flush && to == ScalarType::kF32 && !EmitNamed("flush.f32", {destination.row, destination.row})) return false;
  if (saturate && !EmitNamed(fmt::format("saturate.{}", parts_[count - 2]), {destination.row, destination.row}))
    return false;
  return FinishDestination(destination);
}

// Device memory has one address in both spaces; the others have a window.
bool Lowerer::LowerConvertAddress() {
  const bool to_space = parts_.size() > 2 && parts_[1] == "to";
  const std::size_t place = to_space ? 2 : 1;
  if (parts_.size() != place + 2 || parts_.back() != "u64" || !ExpectOperands(2, 2)) {
    return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
  }
  std::uint64_t window = 0;
  switch (SpaceNamed(parts_[place])) {
    case Space::kShared:
      window = kSharedWindow;
      break;
    case Space::kLocal:
      window = kLocalWindow;
      break;
    case Space::kParam:
      window = kParameterWindow;
      break;
    case Space::kGlobal:
    case Space::kConst:
      break;
    default:
      return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
  }
  Destination destination;
  std::uint32_t source = kNoRow;
  if (!SourceOf(1, ScalarType::kU64, &source) || !PrepareDestination(operand(0), ScalarType::kU64, false, &destination))
    return false;
  if (window == 0) return EmitNamed("move.8", {destination.row, source});
  if (to_space) return EmitNamed("and.b64", {destination.row, source, rows_.Value(8, ~window)});
  return EmitNamed("or.b64", {destination.row, source, rows_.Value(8, window)});
}

bool Lowerer::LowerIsSpace() {
  const Space space = parts_.size() == 2 ? SpaceNamed(parts_[1]) : Space::kNone;
  Destination destination;
  std::uint32_t source = kNoRow;
  if (space == Space::kNone)
    return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
  if (!ExpectOperands(2, 2) || !SourceOf(1, ScalarType::kU64, &source)) return false;
  if (!PrepareDestination(operand(0), ScalarType::kPred, false, &destination)) return false;
  if (space == Space::kGlobal)
    return EmitNamed("setp.lt.u64", {destination.row, source, rows_.Value(8, kSharedWindow)});
  if (space == Space::kConst) return EmitNamed("move.1", {destination.row, rows_.Value(1, 0)});
  const std::uint64_t window = space == Space::kShared  ? kSharedWindow
                               : space == Space::kLocal ? kLocalWindow
                                                        : kParameterWindow;
  const std::uint32_t top = rows_.Temporary(8);
  if (!EmitNamed("shr.u64", {top, source, rows_.Value(4, 56)})) return false;
  return EmitNamed("setp.eq.u64", {destination.row, top, rows_.Value(8, window >> 56)});
}

// *result: the comparison, combined with a predicate by `logic` if that is not empty; *complement likewise of its
// opposite, unless null. Both are temporaries.
bool Lowerer::Compare(std::size_t first_source, const std::string& comparison, std::string_view logic, bool flush,
                      ScalarType type, std::uint32_t* result, std::uint32_t* complement) {
  std::uint32_t a = kNoRow;
  std::uint32_t b = kNoRow;
  if (!SourceOf(first_source, type, &a) || !SourceOf(first_source + 1, type, &b)) return false;
  if (flush && (!Flush(&a) || !Flush(&b))) return false;
  *result = rows_.Temporary(1);
  if (!EmitNamed(comparison, {*result, a, b})) return false;
  if (complement != nullptr) {
    *complement = rows_.Temporary(1);
    if (!EmitNamed("not.pred", {*complement, *result})) return false;
  }
  if (logic.empty()) return true;
  std::uint32_t c = kNoRow;
  if (!SourceOf(first_source + 2, ScalarType::kPred, &c)) return false;
  const std::string name = fmt::format("{}.pred", logic);
  if (!EmitNamed(name, {*result, *result, c})) return false;
  return complement == nullptr || EmitNamed(name, {*complement, *complement, c});
}

bool Lowerer::LowerSetPredicate() {
  // setp.comparison[.logic][.ftz].type
  const std::size_t count = parts_.size();
  const bool flush = Contains(parts_, "ftz");
  const std::string_view logic = count > 3 && parts_[2] != "ftz" ? parts_[2] : std::string_view();
  const ScalarType type = TypeNamed(parts_.back());
  if (count < 3 || count > 5 || (!logic.empty() && logic != "and" && logic != "or" && logic != "xor")) {
    return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
  }
  if (!ExpectOperands(logic.empty() ? 3 : 4, logic.empty() ? 3 : 4)) return false;
  const OperandSyntax& target = operand(0);
  const bool is_pair = target.kind == OperandSyntax::Kind::kPair;
  std::uint32_t result = kNoRow;
  std::uint32_t complement = kNoRow;
  const std::string comparison = fmt::format("setp.{}.{}", parts_[1], parts_.back());
  Destination first;
  Destination second;
  if (!PrepareDestination(is_pair ? target.elements[0] : target, ScalarType::kPred, false, &first)) return false;
  if (!is_pair && logic.empty() && !flush) {
    std::uint32_t a = kNoRow;
    std::uint32_t b = kNoRow;
    return SourceOf(1, type, &a) && SourceOf(2, type, &b) && EmitNamed(comparison, {first.row, a, b});
  }
  if (!Compare(1, comparison, logic, flush, type, &result, is_pair ? &complement : nullptr)) return false;
  if (!is_pair) return EmitNamed("move.1", {first.row, result});
  if (!PrepareDestination(target.elements[1], ScalarType::kPred, false, &second)) return false;
  if (first.row == guard_) {
    // The second move must not see what the first did to the guard.
    std::swap(first, second);
    std::swap(result, complement);
  }
  return EmitNamed("move.1", {first.row, result}) && EmitNamed("move.1", {second.row, complement});
}

bool Lowerer::LowerSet() {
  // set.comparison[.logic][.ftz].to.type
  const std::size_t count = parts_.size();
  const bool flush = Contains(parts_, "ftz");
  const std::string_view logic = count > 4 && parts_[2] != "ftz" ? parts_[2] : std::string_view();
  const ScalarType to = count > 3 ? TypeNamed(parts_[count - 2]) : ScalarType::kNone;
  if (BytesOf(to) != 4 || count > 6 || (!logic.empty() && logic != "and" && logic != "or" && logic != "xor")) {
    return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
  }
  if (!ExpectOperands(logic.empty() ? 3 : 4, logic.empty() ? 3 : 4)) return false;
  std::uint32_t result = kNoRow;
  Destination destination;
  const std::string comparison = fmt::format("setp.{}.{}", parts_[1], parts_.back());
  if (!Compare(1, comparison, logic, flush, TypeNamed(parts_.back()), &result, nullptr)) return false;
  if (!PrepareDestination(operand(0), to, false, &destination)) return false;
  const std::uint64_t yes = to == ScalarType::kF32 ? 0x3F800000 : 0xFFFFFFFF;
  return EmitNamed("select.4", {destination.row, rows_.Value(4, yes), rows_.Value(4, 0), result});
}

bool Lowerer::LowerSelect() {
  const ScalarType type = TypeNamed(parts_.back());
  Destination destination;
  std::uint32_t a = kNoRow;
  std::uint32_t b = kNoRow;
  std::uint32_t choice = kNoRow;
  if (parts_.size() != 2 || BytesOf(type) < 2)
    return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
  if (!ExpectOperands(4, 4) || !SourceOf(1, type, &a) || !SourceOf(2, type, &b) ||
      !SourceOf(3, ScalarType::kPred, &choice))
    return false;
  if (!PrepareDestination(operand(0), type, false, &destination)) return false;
  return EmitNamed(fmt::format("select.{}", BytesOf(type)), {destination.row, a, b, choice});
}

bool Lowerer::LowerSelectBySign() {
  const std::size_t count = parts_.size();
  const ScalarType type = count >= 3 ? TypeNamed(parts_[count - 2]) : ScalarType::kNone;
  const ScalarType by = TypeNamed(parts_.back());
  if (BytesOf(type) < 2 || (by != ScalarType::kS32 && by != ScalarType::kF32)) {
    return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
  }
  Destination destination;
  std::uint32_t a = kNoRow;
  std::uint32_t b = kNoRow;
  std::uint32_t c = kNoRow;
  if (!ExpectOperands(4, 4) || !SourceOf(1, type, &a) || !SourceOf(2, type, &b) || !SourceOf(3, by, &c)) return false;
  if (Contains(parts_, "ftz") && !Flush(&c)) return false;
  if (!PrepareDestination(operand(0), type, false, &destination)) return false;
  return EmitNamed(fmt::format("slct.{}.{}", BytesOf(type), parts_.back()), {destination.row, a, b, c});
}

bool Lowerer::LowerCarry(std::string_view operation, bool carry_in, bool carry_out, std::uint32_t a_row,
                         std::size_t b_index) {
  const ScalarType type = TypeNamed(parts_.back());
  const std::uint32_t bytes = BytesOf(type);
  if (IsFloat(type) || bytes < 4)
    return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
  if (carry_row_ == kNoRow) carry_row_ = rows_.Allocate(1);
  Destination destination;
  std::uint32_t b = kNoRow;
  if (!SourceOf(b_index, type, &b) || !PrepareDestination(operand(0), type, false, &destination)) return false;
  return EmitNamed(fmt::format("carry.{}.{}", operation, 8 * bytes),
                   {destination.row, carry_out ? carry_row_ : kNoRow, a_row, b, carry_in ? carry_row_ : kNoRow});
}

bool Lowerer::LowerAddOrSubtract() {
  const bool carry_in = parts_[0].ends_with('c');
  const bool carry_out = Contains(parts_, "cc");
  if (!carry_in && !carry_out) return LowerGeneric();
  std::uint32_t a = kNoRow;
  if (!ExpectOperands(3, 3) || !SourceOf(1, TypeNamed(parts_.back()), &a)) return false;
  return LowerCarry(parts_[0].substr(0, 3), carry_in, carry_out, a, 2);
}

bool Lowerer::LowerMultiplyAdd() {
  const bool carry_in = parts_[0] == "madc";
  const bool carry_out = Contains(parts_, "cc");
  if (!carry_in && !carry_out) return LowerGeneric();
  const ScalarType type = TypeNamed(parts_.back());
  std::uint32_t a = kNoRow;
  std::uint32_t b = kNoRow;
  if (parts_.size() < 3 || BytesOf(type) < 4 || (parts_[1] != "lo" && parts_[1] != "hi"))
    return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
  if (!ExpectOperands(4, 4) || !SourceOf(1, type, &a) || !SourceOf(2, type, &b)) return false;
  const std::uint32_t product = rows_.Temporary(BytesOf(type));
  if (!EmitNamed(fmt::format("mul.{}.{}", parts_[1], parts_.back()), {product, a, b})) return false;
  return LowerCarry("add", carry_in, carry_out, product, 3);
}

// --- Between lanes.

bool Lowerer::LowerShuffle() {
  const bool is_sync = parts_.size() > 1 && parts_[1] == "sync";
  const std::size_t operand_count = is_sync ? 5 : 4;
  if (parts_.size() != (is_sync ? 4u : 3u) || parts_.back() != "b32")
    return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
  if (!ExpectOperands(operand_count, operand_count)) return false;
  const OperandSyntax& target = operand(0);
  const bool is_pair = target.kind == OperandSyntax::Kind::kPair;
  Destination d;
  Destination p;
  std::uint32_t a = kNoRow;
  std::uint32_t b = kNoRow;
  std::uint32_t c = kNoRow;
  std::uint32_t mask = rows_.Value(4, ~std::uint32_t{0});
  if (!SourceOf(1, ScalarType::kB32, &a) || !SourceOf(2, ScalarType::kB32, &b) || !SourceOf(3, ScalarType::kB32, &c))
    return false;
  if (is_sync && !SourceOf(4, ScalarType::kB32, &mask)) return false;
  if (!PrepareDestination(is_pair ? target.elements[0] : target, ScalarType::kB32, false, &d)) return false;
  if (is_pair && !PrepareDestination(target.elements[1], ScalarType::kPred, false, &p)) return false;
  if (!EmitNamed(fmt::format("shfl.{}", parts_[parts_.size() - 2]), {d.row, p.row, a, b, c, mask})) return false;
  if (is_sync) {
    program_.instructions.back().kind = Instruction::Kind::kConverge;
    program_.instructions.back().mask_row = 5;
  }
  return true;
}

bool Lowerer::LowerVote() {
  const bool is_sync = parts_.size() > 1 && parts_[1] == "sync";
  const std::size_t count = is_sync ? 3 : 2;
  if (parts_.size() != (is_sync ? 4u : 3u))
    return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
  const std::string_view mode = parts_[parts_.size() - 2];
  const bool is_ballot = mode == "ballot";
  if (parts_.back() != (is_ballot ? "b32" : "pred"))
    return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
  Destination d;
  std::uint32_t a = kNoRow;
  std::uint32_t mask = rows_.Value(4, ~std::uint32_t{0});
  if (!ExpectOperands(count, count) || !SourceOf(1, ScalarType::kPred, &a)) return false;
  if (is_sync && !SourceOf(2, ScalarType::kB32, &mask)) return false;
  if (!PrepareDestination(operand(0), is_ballot ? ScalarType::kB32 : ScalarType::kPred, false, &d)) return false;
  if (!EmitNamed(fmt::format("vote.{}", mode), {d.row, a, mask})) return false;
  if (is_sync) {
    program_.instructions.back().kind = Instruction::Kind::kConverge;
    program_.instructions.back().mask_row = 2;
  }
  return true;
}

bool Lowerer::LowerMatch() {
  if (parts_.size() != 4 || !ExpectOperands(3, 3))
    return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
  const OperandSyntax& target = operand(0);
  const bool is_pair = target.kind == OperandSyntax::Kind::kPair;
  const std::string_view mode = parts_[1] == "sync" ? parts_[2] : parts_[1];
  Destination d;
  Destination p;
  std::uint32_t a = kNoRow;
  std::uint32_t mask = kNoRow;
  if (!SourceOf(1, TypeNamed(parts_.back()), &a) || !SourceOf(2, ScalarType::kB32, &mask)) return false;
  if (!PrepareDestination(is_pair ? target.elements[0] : target, ScalarType::kB32, false, &d)) return false;
  if (is_pair && !PrepareDestination(target.elements[1], ScalarType::kPred, false, &p)) return false;
  if (!EmitNamed(fmt::format("match.{}.{}", mode, parts_.back()), {d.row, p.row, a, mask})) return false;
  program_.instructions.back().kind = Instruction::Kind::kConverge;
  program_.instructions.back().mask_row = 3;
  return true;
}

bool Lowerer::LowerReduce() {
  Destination d;
  std::uint32_t a = kNoRow;
  std::uint32_t mask = kNoRow;
  if (parts_.size() != 4)
    return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
  if (!ExpectOperands(3, 3) || !SourceOf(1, ScalarType::kB32, &a) || !SourceOf(2, ScalarType::kB32, &mask))
    return false;
  if (!PrepareDestination(operand(0), ScalarType::kB32, false, &d)) return false;
  if (!EmitNamed(fmt::format("redux.{}.{}", parts_[2], parts_[3]), {d.row, a, mask})) return false;
  program_.instructions.back().kind = Instruction::Kind::kConverge;
  program_.instructions.back().mask_row = 2;
  return true;
}

bool Lowerer::LowerActiveMask() {
  Destination d;
  if (!ExpectOperands(1, 1) || !PrepareDestination(operand(0), ScalarType::kB32, false, &d)) return false;
  return EmitNamed("activemask", {d.row});
}

// --- Barriers.

bool Lowerer::LowerBarrier() {
  std::vector<std::string_view> parts;
  for (const std::string_view part : parts_) {
    if (part != "aligned" && part != "cta") parts.push_back(part);
  }
  if (parts.size() >= 2 && parts[1] == "red") return LowerBarrierReduce();
  if (parts.size() == 3 && parts[1] == "warp" && parts[2] == "sync") {
    std::uint32_t mask = kNoRow;
    if (!ExpectOperands(1, 1) || !SourceOf(0, ScalarType::kB32, &mask) || !EmitNamed("bar.warp", {mask})) return false;
    program_.instructions.back().kind = Instruction::Kind::kConverge;
    program_.instructions.back().mask_row = 0;
    return true;
  }
  const bool arrives = parts.size() == 2 && parts[1] == "arrive";
  if (!arrives && (parts.size() != 2 || parts[1] != "sync")) {
    return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
  }
  std::uint32_t barrier = kNoRow;
  std::uint32_t count = kNoRow;
  if (!ExpectOperands(arrives ? 2 : 1, 2) || !SourceOf(0, ScalarType::kU32, &barrier)) return false;
  if (statement_->operands.size() == 2 && !SourceOf(1, ScalarType::kU32, &count)) return false;
  Emit(nullptr, {barrier, count}).kind = arrives ? Instruction::Kind::kBarrierArrive : Instruction::Kind::kBarrier;
  return true;
}

bool Lowerer::LowerBarrierReduce() {
  std::string_view operation;
  for (const std::string_view part : parts_) {
    if (part == "popc" || part == "and" || part == "or") operation = part;
  }
  const bool counts = operation == "popc";
  if (operation.empty() || parts_.back() != (counts ? "u32" : "pred")) {
    return Fail(fmt::format("unknown or unsupported instruction '{}'", statement_->name.substr(0, 80)));
  }
  if (!ExpectOperands(3, 4)) return false;
  const std::size_t last = statement_->operands.size() - 1;
  Destination d;
  std::uint32_t barrier = kNoRow;
  std::uint32_t count = kNoRow;
  std::uint32_t predicate = kNoRow;
  if (!SourceOf(1, ScalarType::kU32, &barrier) || !SourceOf(last, ScalarType::kPred, &predicate)) return false;
  if (last == 3 && !SourceOf(2, ScalarType::kU32, &count)) return false;
  if (!PrepareDestination(operand(0), counts ? ScalarType::kU32 : ScalarType::kPred, false, &d)) return false;
  if (!EmitNamed(fmt::format("bar.red.{}", operation), {barrier, count, d.row, predicate})) return false;
  program_.instructions.back().kind = Instruction::Kind::kBarrier;
  return true;
}

}  // namespace softgpu::ptx
