// What texts are understood, and that all others are refused with the line and the cause, whatever they hold.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/plugins/softgpu/ptx/machine.h"

namespace softgpu::ptx {
namespace {

using testing::HasSubstr;

constexpr std::string_view kHead = ".version 7.8\n.target sm_80\n.address_size 64\n";

std::string InKernel(const std::string& body) {
  return std::string(kHead) +
         ".visible .entry k(.param .u64 p) {\n.reg .u32 %r<9>; .reg .u64 %rd<9>; .reg .f32 %f<9>; .reg .u16 %h<9>; "
         ".reg .pred %p<9>;\n" +
         body + "\n}\n";
}

ParseError ErrorOf(std::string_view text) {
  const auto parsed = Module::Parse(text);
  if (const auto* error = std::get_if<ParseError>(&parsed)) return *error;
  return {-1, "it was accepted"};
}

bool IsAccepted(std::string_view text) { return ErrorOf(text).line == -1; }

TEST(ModuleTest, AcceptsTheVersionsAndTargetsThatItNames) {
  for (const char* version : {"6.0", "7.0", "7.8", "8.7", "9.0"}) {
    for (const char* target : {"sm_50", "sm_80", "sm_90a", "sm_100f"}) {
      EXPECT_TRUE(IsAccepted(fmt::format(".version {}\n.target {}\n.address_size 64\n", version, target)))
          << version << target;
    }
  }
  EXPECT_TRUE(IsAccepted(std::string(kHead) + std::string(3, '\0')));
}

TEST(ModuleTest, AcceptsWhatCompilersPutAroundTheCode) {
  EXPECT_TRUE(IsAccepted(InKernel(R"(
  .pragma "nounroll";
  .loc 1 2 3
  .loc 1 2 3, function_name $L__info_string0, inlined_at 1 2 3
  /* a comment
     of two lines */ ret; // and the rest)") +
                         R"(
.file 1 "kernels.cu"
.weak .func (.param .b32 r) helper(.param .b32 a) .noreturn { ret; }
.section .debug_str { $L: .b8 1,2,3 .b32 4 }
.extern .func (.param .b32 r) vprintf(.param .b64 a, .param .b64 b);
.visible .entry other() .maxntid 256 .minnctapersm 2 { ret; }
)"));
}

TEST(ModuleTest, FindsKernelsByName) {
  const auto parsed = Module::Parse(ReadKernels("trainer.ptx"));
  const auto& module = std::get<std::unique_ptr<Module>>(parsed);
  EXPECT_EQ(module->kernels().size(), 9u);
  const Kernel* kernel = module->FindKernel("mean");
  ASSERT_NE(kernel, nullptr);
  EXPECT_EQ(kernel->static_shared_bytes, 1024u);
  EXPECT_EQ(kernel->parameter_bytes, 20u);
  EXPECT_EQ(module->FindKernel("median"), nullptr);
}

struct Refusal {
  std::string text;
  std::string cause;
};

const std::vector<Refusal>& ModuleRefusals() {
  static const std::string head(kHead);
  static const std::vector<Refusal> refusals = {
      {"", ".version"},
      {"\x7f"
       "ELF\2\1\1",
       ".version"},
      {"hello", ".version"},
      {".version", "a version"},
      {".version 7", "a version"},
      {".version 5.0\n.target sm_80\n", "5.0 is not supported"},
      {".version 10.0\n.target sm_80\n", "10.0 is not supported"},
      {".version 7.8\n", ".target"},
      {".version 7.8\n.target\n", "a name"},
      {".version 7.8\n.target sm_30\n", "sm_30 is not supported"},
      {".version 7.8\n.target sm_\n", "is not supported"},
      {".version 7.8\n.target debug\n", "names no sm_"},
      {".version 7.8\n.target sm_80\n.address_size 32\n", "only .address_size 64"},
      {head + "}", "a directive"},
      {head + ".bogus", "directive '.bogus'"},
      {head + ".tex .u64 t;", "directive '.tex'"},
      {head + ".visible .entry", "a name"},
      {head + ".visible .entry k(", "parameter"},
      {head + ".visible .entry k(.param", "a type"},
      {head + ".visible .entry k(.param .u33 a) {ret;}", "type '.u33'"},
      {head + ".visible .entry k(.param .u32 a .param .u32 b) {ret;}", "')'"},
      {head + ".visible .entry k(.param .u32 a, .param .u32 a) {ret;}", "declared twice"},
      {head + ".visible .entry k(.param .b8 a[40000]) {ret;}", "more than 32764 bytes"},
      {head + ".visible .entry k() { ret; } .visible .entry k() { ret; }", "defined twice"},
      {head + ".visible .entry k() {", "the text ends"},
      {head + ".visible .entry k() { /* ", "where"},
      {head + ".visible .entry k() .maxntid x {ret;}", "a number"},
      {head + ".visible .entry k() .maxclusterrank 2 {ret;}", "directive '.maxclusterrank'"},
      {head + ".global .u32 x[4] = {1,2,3,4,5};", "more initial values"},
      {head + ".global .u32 x[99999999999999];", "beyond the limit"},
      {head + ".global .u32 x[1000000][1000000][1000000];", "too large"},
      {head + ".global .u32 x[];", "no size"},
      {head + ".global .u32 x = y;", "64 bits"},
      {head + ".global .u64 x = y;", "not a variable"},
      {head + ".global .align 3 .u32 x;", "power of two"},
      {head + ".global .u32 x; .global .u32 x;", "defined twice"},
      {head + ".extern .global .u32 x;", "defined nowhere"},
      {head + ".shared .u32 x = 3;", "can be initialised"},
      {head + ".global .pred x;", "cannot be a predicate"},
      {head + ".global .u32 x = {{{{", "a number"},
      {head + ".section .debug {", "the end of a section"},
      {head + ".pragma \"open", "';'"},
      {head + ".alias f, g;", "directive '.alias'"},
  };
  return refusals;
}

TEST(ModuleTest, RefusesMalformedModules) {
  for (const Refusal& refusal : ModuleRefusals()) {
    const ParseError error = ErrorOf(refusal.text);
    EXPECT_THAT(error.message, HasSubstr(refusal.cause)) << refusal.text;
    EXPECT_GE(error.line, 0) << refusal.text;
  }
}

TEST(ModuleTest, RefusesMalformedBodies) {
  const std::vector<Refusal> refusals = {
      {"frobnicate.u32 %r1, %r2;", "instruction 'frobnicate.u32'"},
      {"add.u33 %r1, %r2, %r3;", "instruction 'add.u33'"},
      {"add.u32 %r1, %r2;", "has 2 operands"},
      {"add.u32 %r1, %r2, %r3, %r4;", "has 4 operands"},
      {"add.u32 %r1, %r2, %r9;", "'%r9' is not declared"},
      {"add.u32 %r1, %r2, %q;", "'%q' is not declared"},
      {"add.u32 %r1, %r2, %r01;", "is not declared"},
      {"add.u32 %r1, %r2, %r99999999999999;", "is not declared"},
      {"add.u32 %r1, %r2, %rd1;", "has 8 bytes"},
      {"add.u64 %rd1, %rd2, %r1;", "has 4 bytes"},
      {"add.u32 %rd1, %r2, %r1;", "has 8 bytes"},
      {"add.u32 %p1, %r2, %r1;", "has 1 bytes"},
      {"add.u32 5, %r2, %r1;", "should be a register"},
      {"add.u32 %r1, [%r2], %r1;", "a register or a number"},
      {"add.u32 %r1, !%r2, %r1;", "only a predicate"},
      {"add.f32 %f1, %f2, 3;", "should be a float"},
      {"add.u32 %r1, %r2, %tid;", "is not declared"},
      {"add.u32 %r1, %r2, 0x;", "a number that PTX knows"},
      {"add.u32 %r1, %r2, 99999999999999999999;", "a number that PTX knows"},
      {"add.f32 %f1, %f2, 0f12;", "a number that PTX knows"},
      {"add.u32 %r1, %r2, -;", "a number"},
      {"add.u32 %r1 %r2, %r3;", "';'"},
      {"add.u32 %r1, %r2, %r3", "';'"},
      {"add.u32 %r1,, %r3;", "a name"},
      {"carry.add.32 %r1, %p1, %r1, %r1, %p1;", "instruction 'carry.add.32'"},
      {"move.4 %r1, %r2;", "instruction 'move.4'"},
      {"mov.u32 %r1;", "has 1 operands"},
      {"mov.u16 %h1, p;", "64 bits"},
      {"mov.b64 %rd1, {%r1};", "does not fit"},
      {"mov.b64 %rd1, {%r1, %r2, %r3};", "does not fit"},
      {"mov.b64 %rd1, {%h1, %h2};", "has 2 bytes"},
      {"mov.b64 {%r1, {%r2}}, %rd1;", "should be a register"},
      {"mov.b64 {{{{%r1}}}}, %rd1;", "nested too deeply"},
      {"cvt.u32 %r1, %r2;", "instruction 'cvt.u32'"},
      {"cvt.f32.s32 %f1, %r2;", "instruction 'cvt.f32.s32'"},
      {"cvt.rn.relu.f32.s32 %f1, %r2;", "instruction"},
      {"cvt.u64.u32 %r1, %r2;", "has 4 bytes"},
      {"cvta.to.global.u32 %r1, %r2;", "instruction"},
      {"cvta.to.texture.u64 %rd1, %rd2;", "instruction"},
      {"setp.foo.u32 %p1, %r1, %r2;", "instruction 'setp.foo.u32'"},
      {"setp.lt.nand.u32 %p1, %r1, %r2, %p2;", "instruction"},
      {"setp.lt.and.u32 %p1, %r1, %r2;", "has 3 operands"},
      {"setp.lt.u32 %r1, %r1, %r2;", "gives 1"},
      {"setp.lt.b32 %p1, %r1, %r2;", "instruction 'setp.lt.b32'"},
      {"selp.u32 %r1, %r2, %r3, %r4;", "wrong kind"},
      {"selp.pred %p1, %p1, %p1, %p1;", "instruction"},
      {"@%r1 bra x; x:", "not a predicate"},
      {"@ 5 bra x;", "a name"},
      {"@!%p9 ret;", "is not declared"},
      {"bra nowhere;", "no label 'nowhere'"},
      {"bra 5;", "needs a label"},
      {"bra;", "has 0 operands"},
      {"x: x: ret;", "defined twice"},
      {"{ y: } bra y;", "no label 'y'"},
      {"brx.idx %r1, nowhere;", "no list of branch targets"},
      {"t: .branchtargets a, b; a: brx.idx %r1, t;", "no label 'b'"},
      {"t: .branchtargets ;", "a name"},
      {"call nothing;", "not a function"},
      {"call (%r1), k, (%r2);", "cannot be called"},
      {"call %rd1, (%r1);", "not a function"},
      {"call 5;", "only direct calls"},
      {"proto: .callprototype (.param .b32 _) _ (.param .b32 _);", "indirect calls"},
      {"ld.global.u32 %r1, %rd1;", "address in brackets"},
      {"ld.global.u32 %r1, [%rd1;", "']'"},
      {"ld.global.u32 %r1, [%h1];", "cannot hold an address"},
      {"ld.global.u32 %r1, [p];", "another state space"},
      {"ld.global %r1, [%rd1];", "no type"},
      {"ld.global.pred %p1, [%rd1];", "no type"},
      {"ld.global.u32.bogus %r1, [%rd1];", "instruction"},
      {"ld.global.v2.u32 %r1, [%rd1];", "number of registers"},
      {"ld.global.v2.u32 {%r1, %r2, %r3}, [%rd1];", "number of registers"},
      {"ld.global.v4.u64 {%rd1, %rd2, %rd3, %rd4}, [%rd1];", "instruction"},
      {"ld.global.u64 %r1, [%rd1];", "gives 8"},
      {"ld.global.u8 %p1, [%rd1];", "wrong kind"},
      {"st.param.u32 [p], %r1;", "cannot be written"},
      {"st.const.u32 [%rd1], %r1;", "cannot be written"},
      {"st.global.u32 [%rd1], %h1;", "has 2 bytes"},
      {"atom.global.mul.u32 %r1, [%rd1], %r2;", "instruction"},
      {"atom.global.add.u32 %r1, [%rd1];", "operands"},
      {"atom.global.cas.b32 %r1, [%rd1], %r2;", "lacks an operand"},
      {"atom.local.add.u32 %r1, [%rd1], 1;", "global or shared"},
      {"shfl.sync.left.b32 %r1, %r2, 1, 31, -1;", "instruction"},
      {"shfl.sync.up.b64 %rd1, %rd2, 1, 31, -1;", "instruction"},
      {"vote.sync.most.pred %p1, %p2, -1;", "instruction"},
      {"match.any.sync.f32 %r1, %f1, -1;", "instruction"},
      {"redux.sync.mul.u32 %r1, %r2, -1;", "instruction"},
      {"mad.wide.cc.u32 %r1, %r2, %r3, %r4;", "instruction 'mad.wide.cc.u32'"},
      {"testp.finite.sat.f32 %p1, %f1;", "nothing to saturate"},
      {"and.pred %p1, %tid.x, %p2;", "wrong kind"},
      {"bar.wait 0;", "instruction"},
      {"bar.red.xor.pred %p1, 0, %p2;", "instruction"},
      {"barrier.cluster.arrive;", "instruction"},
      {"tex.2d.v4.f32.f32 {%f1, %f2, %f3, %f4}, [p, {%f1, %f2}];", "']'"},
      {"wgmma.fence.sync.aligned;", "instruction 'wgmma.fence.sync.aligned'"},
      {".reg .u32 %r<9>;", "declared twice"},
      {".reg .u32 x; .reg .u32 x;", "declared twice"},
      {".reg .quad x;", "register type '.quad'"},
      {".reg .u32 %big<9999999999>;", "beyond the limit"},
      {".global .u32 x;", "outside functions"},
      {".local .b8 x[600000];", "local memory"},
      {".shared .b8 x[300000];", "shared memory"},
      {".bogus x;", "directive '.bogus'"},
      {"}", "a directive"},
      {"\"text\"", "an instruction"},
      {"#", "'#'"},
      {"123;", "an instruction"},
      {std::string(100, '{'), "nested too deeply"},
  };
  EXPECT_GE(refusals.size() + ModuleRefusals().size(), 100u);
  for (const Refusal& refusal : refusals) {
    const ParseError error = ErrorOf(InKernel(refusal.text));
    EXPECT_THAT(error.message, HasSubstr(refusal.cause)) << refusal.text;
    EXPECT_GE(error.line, 4) << refusal.text << ": " << error.message;
  }
}

TEST(ModuleTest, NamesTheLineOfAnError) { EXPECT_EQ(ErrorOf(InKernel("ret;\n\n/*\n*/ frob;")).line, 9); }

TEST(ModuleTest, RefusesRecursionAndExplosionsOfCalls) {
  const std::string recursive =
      std::string(kHead) + ".func f() { call f; ret; }\n.visible .entry k() { call f; ret; }\n";
  EXPECT_THAT(ErrorOf(recursive).message, HasSubstr("recursion"));
  std::string explosion = std::string(kHead) + ".func f0() { ret; }\n";
  for (int i = 1; i < 40; ++i)
    explosion += fmt::format(".func f{}() {{ call f{}; call f{}; ret; }}\n", i, i - 1, i - 1);
  explosion += ".visible .entry k() { call f39; ret; }\n";
  EXPECT_THAT(ErrorOf(explosion).message, HasSubstr("more than"));
}

TEST(ModuleTest, RefusesMoreRegistersThanAThreadCanHave) {
  std::string body = ".reg .u64 %x<20000>;\n";
  for (int i = 0; i < 20000; ++i) body += fmt::format("mov.u64 %x{}, {};\n", i, i);
  EXPECT_THAT(ErrorOf(InKernel(body)).message, HasSubstr("registers of one thread"));
  EXPECT_TRUE(IsAccepted(InKernel(".reg .u64 %x<1000000>; mov.u64 %x999999, 1; ret;")));
}

// Nothing to expect of these but that they end.
TEST(ModuleTest, SurvivesEveryPrefixAndManyMutations) {
  const std::string text = ReadKernels("trainer.ptx");
  for (std::size_t length = 0; length < text.size(); length += 97)
    (void)Module::Parse(std::string_view(text).substr(0, length));
  std::mt19937 random(7);
  constexpr std::string_view kBytes = "0123456789%.,;:{}[]()<>@!|+-=_$ \nrdfu\"/*";
  for (int i = 0; i < 300; ++i) {
    std::string mutated = text;
    for (int k = 0; k < 4; ++k) mutated[random() % mutated.size()] = kBytes[random() % kBytes.size()];
    (void)Module::Parse(mutated);
  }
}

}  // namespace
}  // namespace softgpu::ptx
