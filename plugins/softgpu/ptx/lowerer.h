// The state of lowering one kernel. Only for lowering.cc and lower_*.cc.
//
// Every function that returns false has called Fail(). An instruction may become several: temporary rows carry what is
// between them, and the destination is written by the last, so that the guard of the instruction is that of each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "plugins/softgpu/ptx/lowering.h"
#include "plugins/softgpu/ptx/operation.h"
#include "plugins/softgpu/ptx/program.h"
#include "plugins/softgpu/ptx/rows.h"
#include "plugins/softgpu/ptx/syntax.h"
#include "plugins/softgpu/ptx/types.h"

namespace softgpu::ptx {

// What a name in a function stands for.
struct Symbol {
  enum class Kind { kNone, kRegister, kVariable, kGlobal, kDynamicShared };
  Kind kind = Kind::kNone;
  ScalarType type = ScalarType::kNone;  // kRegister
  Space space = Space::kNone;           // kVariable
  std::uint32_t row = 0;                // kRegister
  std::uint32_t global = 0;             // kGlobal
  std::uint64_t offset = 0;             // kVariable: in its space.
  std::uint64_t bytes = 0;
};

class Lowerer {
 public:
  Lowerer(const Kernel& kernel, const ModuleSymbols& symbols, std::size_t* budget)
      : kernel_(kernel), symbols_(symbols), budget_(budget), operations_(OperationTable::Get()) {}

  bool LowerEntry(const FunctionSyntax& function);
  Program TakeProgram();
  ParseError& error() { return error_; }

 private:
  struct RegisterRange {
    ScalarType type = ScalarType::kNone;
    std::uint32_t count = 0;
  };
  struct Scope {
    std::unordered_map<std::string_view, Symbol> symbols;
    std::unordered_map<std::string_view, RegisterRange> ranges;
    std::size_t label_scope = 0;
  };
  struct LabelScope {
    std::size_t parent = 0;
    std::unordered_map<std::string_view, std::size_t> labels = {};  // To Frame::label_targets.
    std::unordered_map<std::string_view, const StatementSyntax*> tables = {};
  };
  struct Fixup {
    std::size_t place = 0;  // Instruction, or table.
    std::size_t element = 0;
    std::size_t label = 0;
    bool in_table = false;
  };
  // One function as inlined in one place.
  struct Frame {
    const FunctionSyntax* function = nullptr;
    std::size_t depth = 0;
    std::vector<Scope> scopes = {};
    std::vector<LabelScope> label_scopes = {};
    std::size_t next_label_scope = 1;
    std::vector<std::uint32_t> label_targets = {};  // [0]: the end of the function.
    std::vector<Fixup> fixups = {};
  };
  struct Destination {
    std::uint32_t row = kNoRow;        // That the operation writes.
    std::uint32_t final_row = kNoRow;  // If wider: extend into this.
    std::uint32_t bytes = 0;
    std::uint32_t final_bytes = 0;
    bool is_signed = false;
  };
  struct Address {
    Space space = Space::kNone;
    std::uint32_t row = kNoRow;
    std::int64_t displacement = 0;
  };
  using Method = bool (Lowerer::*)();

  // --- lowering.cc: functions, scopes, calls.
  bool Fail(std::string message);
  bool Spend(std::size_t amount);
  void MarkWritersOfAddresses();
  void MarkUniformRows();
  bool LowerFunction(Frame* frame);
  bool CollectLabels(Frame* frame);
  bool LowerStatement(const StatementSyntax& statement);
  bool LowerInstruction(const StatementSyntax& statement);
  bool ApplyFixups(Frame* frame);
  bool Declare(std::string_view name, const Symbol& symbol);
  bool DeclareRegisters(const RegisterSyntax& declared);
  bool DeclareVariable(const VariableSyntax& variable);
  bool AllocateLocal(const VariableSyntax& variable, Symbol* symbol);
  bool AllocateShared(const VariableSyntax& variable, Symbol* symbol);
  bool Lookup(std::string_view name, Symbol* symbol);
  bool LookupInScope(Scope* scope, std::string_view name, Symbol* symbol);
  bool LookupLabel(std::string_view name, std::size_t* label);
  bool LowerCall();
  bool LowerExternalCall(std::string_view name);
  bool BindArgument(const VariableSyntax& formal, const OperandSyntax& actual, bool is_result, Scope* scope);
  bool CopyResult(const VariableSyntax& formal, const OperandSyntax& actual, const Symbol& inner);
  bool LowerBranch();
  bool LowerIndexedBranch();
  bool LowerReturn();
  bool LowerExit();
  bool LowerTrap();
  bool LowerNothing();

  // --- lower_operands.cc
  Instruction& Emit(Handler handler, std::initializer_list<std::uint32_t> rows);
  bool EmitNamed(std::string_view name, std::initializer_list<std::uint32_t> rows);
  bool ExpectOperands(std::size_t low, std::size_t high);
  bool Source(const OperandSyntax& operand, std::uint32_t bytes, bool is_float, bool may_be_wider, std::uint32_t* row);
  bool SourceOf(std::size_t index, ScalarType type, std::uint32_t* row, bool may_be_wider = false);
  bool NameSource(const OperandSyntax& operand, std::uint32_t bytes, bool may_be_wider, std::uint32_t* row);
  bool SymbolAddress(const Symbol& symbol, std::uint64_t addend, std::uint32_t bytes, std::uint32_t* row);
  bool Immediate(const OperandSyntax& operand, std::uint32_t bytes, bool is_float, std::uint32_t* row);
  bool SpecialSource(std::string_view name, std::uint32_t* row, std::uint32_t* bytes);
  bool Resize(std::uint32_t row, std::uint32_t from, std::uint32_t to, std::uint32_t* resized);
  bool PrepareDestination(const OperandSyntax& operand, ScalarType type, bool may_be_wider, Destination* destination);
  bool FinishDestination(const Destination& destination);
  bool AddressOf(const OperandSyntax& operand, Space requested, Address* address);
  bool Flush(std::uint32_t* row);
  const OperandSyntax& operand(std::size_t index) const { return statement_->operands[index]; }

  // --- lower_instructions.cc
  static const std::unordered_map<std::string_view, Method>& Methods();
  bool LowerGeneric();
  bool LowerMove();
  bool LowerPack(const OperandSyntax& parts, ScalarType type);
  bool LowerUnpack(const OperandSyntax& parts, ScalarType type);
  bool LowerConvert();
  bool LowerConvertAddress();
  bool LowerIsSpace();
  bool LowerSetPredicate();
  bool LowerSet();
  bool Compare(std::size_t first_source, const std::string& comparison, std::string_view logic, bool flush,
               ScalarType type, std::uint32_t* result, std::uint32_t* complement);
  bool LowerSelect();
  bool LowerSelectBySign();
  bool LowerAddOrSubtract();
  bool LowerMultiplyAdd();
  bool LowerCarry(std::string_view operation, bool carry_in, bool carry_out, std::uint32_t a_row, std::size_t b_index);
  bool LowerShuffle();
  bool LowerVote();
  bool LowerMatch();
  bool LowerReduce();
  bool LowerActiveMask();
  bool LowerBarrier();
  bool LowerBarrierReduce();

  // --- lower_memory.cc
  struct AccessSyntax {
    Space space = Space::kGeneric;
    std::uint32_t count = 1;
    ScalarType type = ScalarType::kNone;
    std::string_view operation;  // Of an atomic.
  };
  bool ParseAccess(AccessSyntax* access);
  bool LowerLoad();
  bool LowerStore();
  bool LowerAtomic();
  bool EmitAccess(Handler handler, const Address& address, const std::uint32_t (&values)[4]);

  const Kernel& kernel_;
  const ModuleSymbols& symbols_;
  std::size_t* budget_;
  const OperationTable& operations_;
  Program program_;
  RowAllocator rows_;
  ParseError error_;
  Frame* frame_ = nullptr;
  std::unordered_map<const VariableSyntax*, std::uint64_t> shared_offsets_;
  std::uint32_t carry_row_ = kNoRow;

  // Of the statement being lowered.
  const StatementSyntax* statement_ = nullptr;
  std::vector<std::string_view> parts_;  // Of its opcode.
  std::uint32_t guard_ = kNoRow;
};

}  // namespace softgpu::ptx
