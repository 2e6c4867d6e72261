// A PTX module: text in, kernels ready to run out.
//
// The text is hostile: whatever it holds, Parse() ends, within memory bounded by the limits below, with a module or
// with a ParseError that names the line. Direct calls are inlined, so that a kernel is one flat list of instructions;
// recursion and indirect calls are refused. Supported: PTX ISA up to 8.x of a 64-bit target sm_50 or later, without
// textures, surfaces, tensor-core instructions, clusters and dynamic parallelism.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace softgpu::ptx {

struct Program;

inline constexpr std::size_t kMaxTextBytes = std::size_t{64} << 20;
inline constexpr std::size_t kMaxNesting = 64;                       // Of { } and of calls.
inline constexpr std::size_t kMaxStatements = std::size_t{1} << 20;  // Of one module.
inline constexpr std::size_t kMaxModuleOperands = std::size_t{4} << 20;
inline constexpr std::size_t kMaxSymbols = std::size_t{1} << 16;            // Functions and variables of one module.
inline constexpr std::size_t kMaxInstructions = std::size_t{1} << 20;       // Of all kernels, after inlining.
inline constexpr std::size_t kMaxFrameBytes = std::size_t{128} << 10;       // Registers of one thread.
inline constexpr std::size_t kMaxLocalBytes = std::size_t{512} << 10;       // .local memory of one thread.
inline constexpr std::size_t kMaxSharedBytes = std::size_t{228} << 10;      // Of one block, static and dynamic.
inline constexpr std::size_t kMaxParameterBytes = 32764;                    // Of one kernel.
inline constexpr std::uint64_t kMaxVariableBytes = std::uint64_t{1} << 40;  // Of one .global or .const variable.
inline constexpr std::size_t kMaxInitialBytes = std::size_t{64} << 20;      // Initial contents, of one module.
inline constexpr std::uint32_t kMaxThreadsPerBlock = 1024;

struct ParseError {
  int line = 0;  // From 1; 0: the error concerns the text as a whole.
  std::string message;
};

// The eight bytes at `offset` of a variable's initial contents are the address of global number `global`, plus
// `addend`.
struct Relocation {
  std::uint64_t offset = 0;
  std::size_t global = 0;
  std::int64_t addend = 0;
};

// A .global or .const variable of module scope. Whoever loads the module places it in device memory.
struct GlobalVariable {
  std::string name;
  std::uint64_t bytes = 0;
  std::uint32_t alignment = 1;
  std::vector<std::byte> initial;  // The first bytes; zeroes follow. Never longer than `bytes`.
  std::vector<Relocation> relocations;
  bool is_const = false;
};

struct Parameter {
  std::string name;
  std::uint32_t bytes = 0;
  std::uint32_t alignment = 1;
  std::uint32_t offset = 0;  // In the packed parameter buffer.
};

struct Kernel {
  std::string name;
  std::vector<Parameter> parameters;
  std::uint32_t parameter_bytes = 0;  // Up to the end of the last parameter.
  std::uint32_t static_shared_bytes = 0;
  std::uint32_t local_bytes = 0;                              // Per thread.
  std::optional<std::array<std::uint32_t, 3>> max_ntid;       // .maxntid
  std::optional<std::array<std::uint32_t, 3>> required_ntid;  // .reqntid
  std::uint32_t register_estimate = 0;                        // 32-bit registers per thread, at most 255.
  std::shared_ptr<const Program> program;                     // What Launch() runs; shared by copies of this Kernel.
};

// Immutable. Thread safety: any number of threads at once.
class Module {
 public:
  // `ptx_text` may end with one or more NULs.
  static std::variant<std::unique_ptr<Module>, ParseError> Parse(std::string_view ptx_text);

  // In the order of the text. Their addresses go to Launch() in this order.
  const std::vector<GlobalVariable>& globals() const { return globals_; }
  const std::vector<Kernel>& kernels() const { return kernels_; }
  // Null if there is none of this name.
  const Kernel* FindKernel(std::string_view name) const;

 private:
  Module(std::vector<GlobalVariable> globals, std::vector<Kernel> kernels);

  std::vector<GlobalVariable> globals_;
  std::vector<Kernel> kernels_;
};

}  // namespace softgpu::ptx
